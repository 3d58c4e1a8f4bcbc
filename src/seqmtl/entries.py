"""The YAML of a table or figure: where it lies, and that lists are lists and each key is one that something reads.

Unusual: YAML reads `datasets: aliccp_sim` as a text, and Python walks through a text as through a list of its letters. So nothing
here is taken for a list that is none. All of it raises ValueError in words, to which `read` adds the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import yaml

from seqmtl.errors import SeqmtlError

Spec = TypeVar("Spec")


def files(kind: str, folders: Sequence[Path]) -> dict[str, Path]:
    """{name: its YAML} in the conf folders; a user's own folder comes later and wins.

    Args:
        kind: table or figure.
    """
    return {path.stem: path for folder in folders for path in sorted((folder / kind).glob("*.yaml"))}


def read(kind: str, name: str, folders: Sequence[Path], checked: Callable[[str, Any], Spec]) -> Spec:
    """The table or figure of that name.

    Args:
        checked: makes it of its name and its YAML's content.

    Raises:
        SeqmtlError: there is none, or its YAML is wrong; says where.
    """
    found = files(kind, folders)
    if name not in found:
        raise SeqmtlError(f"there is no {kind} '{name}'; there are {', '.join(found)}")
    try:
        content = yaml.safe_load(found[name].read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise SeqmtlError(f"{found[name]} cannot be read: {e}") from e
    try:
        return checked(name, content)
    except (SeqmtlError, KeyError, TypeError, ValueError, AttributeError) as e:
        raise SeqmtlError(f"{found[name]} is no {kind}: {type(e).__name__}: {e}") from e


def headings(content: Mapping[str, Any]) -> dict[str, str]:
    """{"title", "paper", "where", "about"}; all but the title may be empty.

    Raises:
        KeyError: it has no title.
        ValueError: one is no text.
    """
    return {"title": text(content["title"], "title"), **{key: text(content.get(key), key) for key in ("paper", "where", "about")}}


def strings(value: Any, what: str) -> tuple[str, ...]:
    """A list of words, () where nothing is said.

    Raises:
        ValueError: it is no list of words.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{what} must be a list of words, [a, b], not {value!r}")
    return tuple(value)


def different(value: Any, what: str) -> tuple[str, ...]:
    """As `strings`, each word once.

    Raises:
        ValueError: it is no list of words, or one stands there twice.
    """
    found = strings(value, what)
    if twice := sorted({one for one in found if found.count(one) > 1}):
        raise ValueError(f"{what} has {', '.join(twice)} twice")
    return found


def text(value: Any, what: str) -> str:
    """One line, empty where nothing is said.

    Raises:
        ValueError: it is no text.
    """
    if not isinstance(value or "", str):
        raise ValueError(f"{what} must be text, not {value!r}")
    return " ".join((value or "").split())


def truth(value: Any, what: str, default: bool = False) -> bool:
    """true or false.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be true or false, not {value!r}")
    return value


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """{name: …}, empty where nothing is said.

    Raises:
        ValueError: it is none, or a name is no text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be {{name: …}}, not {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{what}: the name {key!r} must be text, in quotes where it looks like a number")
    return value


def seeds(value: Any, default: tuple[int, ...]) -> tuple[int, ...]:
    """Distinct whole numbers of at least 0.

    Raises:
        ValueError: they are not.
    """
    if value is None:
        return default
    whole = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value)
    if not whole or not value or len(set(value)) < len(value):
        raise ValueError(f"seeds must be different whole numbers of at least 0, [1, 2, 3], not {value!r}")
    return tuple(value)


def datasets(value: Any) -> dict[str, tuple[str, ...]]:
    """{dataset: words of the runs on it}, of a list of datasets or of such a mapping.

    Raises:
        ValueError: it is neither, or empty.
    """
    if isinstance(value, Mapping):
        found = {name: strings(words, f"datasets.{name}") for name, words in mapping(value, "datasets").items()}
    else:
        found = dict.fromkeys(different(value, "datasets"), ())
    if not found:
        raise ValueError("there is no dataset")
    return found


def refuse_unknown(what: str, given: Any, known: Set[str]) -> None:
    """
    Raises:
        ValueError: it is no mapping, or has a key that nothing reads.
    """
    unknown = sorted(set(mapping(given, what)) - known)
    if unknown:
        raise ValueError(f"{what} has {', '.join(unknown)}, which nothing reads; it may have {', '.join(sorted(known))}")
