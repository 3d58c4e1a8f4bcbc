"""Everything that is wrong with a meta.json, where `read_meta` stops at the first thing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqmtl.data.meta import LAYOUT_VERSION, OUTCOMES, SPLITS, Meta, check_file_names, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.paths import refuse_links_out
from seqmtl.prepare.check_findings import Findings

KIND = "meta.json"


def check_meta(directory: Path, findings: Findings) -> Meta | None:
    """The contents, as far as the rest of the check can go by them; None where it cannot."""
    say = _Sayer(findings)
    try:
        refuse_links_out(directory)
    except SeqmtlError as e:
        say.stop(str(e))
        return None
    raw = _json(directory / "meta.json", say)
    if raw is None:
        return None
    for key in sorted(set(raw) - set(Meta.__dataclass_fields__)):
        findings.warn(KIND, f"key '{key}' means nothing")
    if raw.get("version") != LAYOUT_VERSION:
        say(f"version is {raw.get('version', 'missing')}; this seqmtl reads version {LAYOUT_VERSION}")
    for key in ("fields", "parents", "rows"):
        if key not in raw:
            say.stop(f"key '{key}' is missing")
    _types(raw, say)
    if say.fatal:
        return None
    try:
        check_file_names(raw)
    except SeqmtlError as e:
        say.stop(str(e))
        return None
    meta = Meta(**{k: v for k, v in raw.items() if k in Meta.__dataclass_fields__})
    _names(meta, say)
    try:
        read_meta(directory)
    except SeqmtlError as e:
        if not len(findings):
            say(str(e))
    return meta


class _Sayer:
    """Says what is wrong; `fatal` once there is something that nothing can be read by."""

    def __init__(self, findings: Findings) -> None:
        self.findings, self.fatal = findings, False

    def __call__(self, text: str) -> None:
        self.findings.error(KIND, text)

    def stop(self, text: str) -> None:
        self(text)
        self.fatal = True


def _json(path: Path, say: _Sayer) -> dict[str, Any] | None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in sorted({name for name in names if names.count(name) > 1}):
            say(f"'{name}' stands twice in one object")
        return dict(pairs)

    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        say(f"{path} is missing")
    except (OSError, ValueError) as e:
        say(f"{path} cannot be read as JSON ({e})")
    else:
        if isinstance(raw, dict):
            return raw
        say(f"{path} must hold an object")
    return None


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _types(raw: Mapping[str, Any], say: _Sayer) -> None:
    """Types of all keys; {} and "" where they are left out."""
    count, size = _whole(0), _whole(1)
    _object(raw, "fields", size, "a whole number of at least 1", say)
    _object(raw, "parents", lambda p: p is None or isinstance(p, str), "the name of a task or null", say)
    _object(raw, "rows", count, "a whole number of at least 0", say)
    _object(raw, "positives", lambda p: isinstance(p, dict) and all(map(count, p.values())), "{task: whole number}", say)
    for key, inner in (("histories", {"field", "items"}), ("bags", {"size", "items"}), ("shards", {"rows", "bytes"})):
        words = f"{{{', '.join(sorted(inner))}}}"
        _object(raw, key, lambda v, inner=inner: isinstance(v, dict) and inner <= set(v) and _numbers(v), words, say)  # type: ignore[misc]
    for key in ("dropped", "fixed"):
        _object(raw, key, count, "a whole number", say)
    for key in ("sources", "statistics"):
        _object(raw, key, lambda v: True, "", say)
    if not isinstance(raw.get("options"), dict | None):
        say("options must be an object, or null from a tool that is not seqmtl")
    if not isinstance(raw.get("checksum", ""), str):
        say.stop('checksum must be text, "" from a tool that is not seqmtl')
    for key in ("fields", "parents"):
        if raw.get(key) == {}:
            say.stop(f"{key} is empty; name at least one {'field' if key == 'fields' else 'task'}")
    if isinstance(raw.get("rows"), dict):
        for split in SPLITS:
            if split not in raw["rows"]:
                say.stop(f"rows lacks the split {split}")
            elif raw["rows"][split] == 0:
                say(f"rows: the split {split} has no rows, but every split needs some")


def _numbers(entry: Mapping[str, Any]) -> bool:
    return all(isinstance(v, str) if k == "field" else _whole(0)(v) for k, v in entry.items())


def _object(raw: Mapping[str, Any], key: str, right: Callable[[Any], bool], words: str, say: _Sayer) -> None:
    node = raw.get(key, {})
    if not isinstance(node, dict):
        say.stop(f"{key} must be an object, not {node!r}")
        return
    for name, value in node.items():
        if not right(value):
            say.stop(f"{key}: '{name}' must be {words}, not {json.dumps(value)}")


def _names(meta: Meta, say: _Sayer) -> None:
    """Names that refer to each other, and outcomes among the fields."""
    for field in meta.fields:
        if field in meta.parents:
            say(f"fields: '{field}' is a label, so it must not be a field")
        elif field in OUTCOMES:
            say(f"fields: '{field}' happens after the impression, so it must not be a field")
    for t, (task, parent) in enumerate(meta.parents.items()):
        if parent is not None and parent not in list(meta.parents)[:t]:
            say(f"parents: the parent '{parent}' of '{task}' must be a task that stands before it ({', '.join(meta.parents)})")
    for split, of_tasks in meta.positives.items():
        if split not in SPLITS or set(of_tasks) != set(meta.parents):
            say(f"positives: '{split}' must be one of {', '.join(SPLITS)}, with a count of each of {', '.join(meta.parents)}")
    for name, history in meta.histories.items():
        if history["field"] not in meta.fields:
            say(f"histories: '{name}' is of the field '{history['field']}', which is none of {', '.join(meta.fields)}")
        if name in meta.bags:
            say(f"'{name}' is a history and a multi-valued field; give one of them another name")
    for name in (*meta.histories, *meta.bags):
        taken = sorted({f"{name}_end", f"{name}_len"} & {*meta.fields, *meta.parents})
        if taken:
            say(f"'{name}' needs the columns {name}_end and {name}_len, but {', '.join(taken)} is a field or a task")
