"""The one place where a name in a config becomes code. docs/security.md says what is guarded, and what is not.

Unusual: a config may be a stranger's, so that a name begins well is not enough: `seqmtl.job.os.system` does. What is found must be
defined where a config has something to look for, and be a class or, where a function is asked for, one that is made for it.
Packages of the user's own come from the command line or the environment, never from a config.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqmtl.errors import SeqmtlError

ENVIRONMENT = "SEQMTL_ALLOW"  # the user's own packages, parted by commas; jobs get it from their parent

# Classes that a part may be. Of seqmtl only what is made for configs: what writes files or starts processes must not be named.
CLASSES = (
    *("seqmtl.models.", "seqmtl.nn.", "seqmtl.losses.", "seqmtl.steps.", "seqmtl.optimizers."),
    *("torch.nn.", "torch.optim.", "lightning.pytorch.", "torchjd."),
)
# Lightning's command line imports whatever it is told; its demos download.
REFUSED = ("lightning.pytorch.cli.", "lightning.pytorch.demos.")
# Functions, by what asks for one.
FUNCTIONS = {
    "_target_": r"torch\.nn\.(functional|init)\.\w+",
    "launcher": r"seqmtl\.launch\.\w+\.run",
    "model.runner": r"seqmtl\.boost\.run",
    "dataset.prepare": r"seqmtl\.prepare\.\w+\.prepare|seqmtl\.simulate\.\w+\.simulate",
}
BEGINNINGS = (*CLASSES, "seqmtl.launch.", "seqmtl.boost.", "seqmtl.prepare.", "seqmtl.simulate.")
PACKAGE = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*\.?", re.ASCII)
NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)  # no part is private: __init__, __globals__


def allow(given: Any, words: Sequence[str]) -> None:
    """Let configs name the user's own packages, in this process and in those that it starts.

    Args:
        given: `allow` of a composed config.
        words: of the command line. A config that sets `allow` itself would let in its own code.

    Raises:
        SeqmtlError: it does not stand on the command line, or is no list of packages.
    """
    if not given:
        return
    if not _said("allow", words):
        raise SeqmtlError(
            f"a config sets allow={list(given)}, but which code may run is said on the command line only;"
            f" if you trust it, take allow out of the config and add allow=[{','.join(map(str, given))}] to the command"
        )
    if isinstance(given, str) or not all(isinstance(package, str) and PACKAGE.fullmatch(package) for package in given):
        raise SeqmtlError(f"allow must be a list of packages: allow=[mylab.], not {given!r}")
    os.environ[ENVIRONMENT] = ",".join(dict.fromkeys([*_allowed(), *given]))


def refuse_shell(launcher: Mapping[str, Any], words: Sequence[str]) -> None:
    """Refuse `launcher.setup`, lines of shell, and `launcher.extra`, which may set a job's environment, where a config has them.

    Raises:
        SeqmtlError: they do not stand on the command line.
    """
    for key in ("setup", "extra"):
        if launcher.get(key) and not _said(f"launcher.{key}", words):
            raise SeqmtlError(
                f"a config sets launcher.{key}={launcher[key]}, but what else a job runs is said on the command line only:"
                f" launcher.{key}=…"
            )


def _said(key: str, words: Sequence[str]) -> bool:
    return any(word.lstrip("+").startswith((f"{key}=", f"{key}.")) for word in words)


def _allowed() -> list[str]:
    packages = (package.strip().rstrip(".") for package in os.environ.get(ENVIRONMENT, "").split(","))
    return [f"{package}." for package in packages if package]


def check_names(node: Any) -> None:
    """Refuse a `_target_`, at any depth of a config, that does not begin as one may; nothing is imported.

    Raises:
        SeqmtlError: names it.
    """
    for name in _names(node):
        _check_name(name, "_target_")


def found_in(node: Any, asked: str = "_target_") -> Iterator[Any]:
    """The classes and functions that a node and all below it name.

    Args:
        asked: what asks for them, a key of FUNCTIONS.

    Raises:
        SeqmtlError: as `find`.
    """
    for name in _names(node):
        yield find(name, asked)


def find(name: Any, asked: str) -> Any:
    """The class or function of a name.

    Args:
        name: dotted.
        asked: what asks for it, a key of FUNCTIONS.

    Raises:
        SeqmtlError: there is none, or a config may not name it.
    """
    from hydra.utils import get_object

    _check_name(name, asked)
    try:
        found = get_object(name)
    except Exception as e:  # whatever the import of a module raises
        raise SeqmtlError(f"{asked}: {name} cannot be found ({' '.join(str(e).split())})") from e
    if not _may_be_named(found, asked):
        raise SeqmtlError(f"{asked}: {name} is nothing that a config may name there; {_what_may(asked)}")
    return found


def instantiate(node: Mapping[str, Any], asked: str = "_target_") -> Any:
    """Hydra's, of a node in which everything may be named.

    Args:
        asked: what asks for it, a key of FUNCTIONS.

    Raises:
        SeqmtlError: something may not, or is still to be resolved, so that it could become anything.
    """
    from hydra.utils import instantiate as made

    list(found_in(node, asked))  # all are looked at before the first is called
    for text in _texts(node):
        if "${" in text:
            raise SeqmtlError(f"'{text}' stands in a config that is resolved already; write the value itself")
    return made(node)


def _names(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for value in node:
        yield from _names(value)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(value)


def _check_name(name: Any, asked: str) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or not _begins(name, (*BEGINNINGS, *_allowed())):
        raise SeqmtlError(f"{asked}: {name} is no name that a config may use; {_what_may(asked)}")


def _begins(name: str, beginnings: Sequence[str]) -> bool:
    return name.startswith(tuple(beginnings)) and not name.startswith(REFUSED)


def _may_be_named(found: Any, asked: str) -> bool:
    """By where it is defined and not by the path to it, which may lead through a module's imports to anything."""
    if not (inspect.isclass(found) or inspect.isfunction(found)) or "." in found.__qualname__:  # a method, or hidden in a function
        return False
    home = f"{found.__module__}.{found.__qualname__}"
    if _begins(home, _allowed()):
        return True
    if inspect.isclass(found):
        return asked == "_target_" and _begins(home, CLASSES)
    return re.fullmatch(FUNCTIONS[asked], home) is not None


def _what_may(asked: str) -> str:
    own = "code of your own that you trust is let in on the command line, allow=[yourpackage.]"
    if asked == "_target_":
        return f"classes below {', '.join(CLASSES)} may be named, and {own}"
    return f"what seqmtl ships for it may be named, and {own}"
