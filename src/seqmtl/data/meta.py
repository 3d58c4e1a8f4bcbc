"""meta.json: what a prepared dataset says of itself. docs/datasets.md has the contract.

Unusual: this file imports neither torch nor Arrow, so that the command line can refuse a wrong request in a moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqmtl.errors import SeqmtlError
from seqmtl.paths import file_name, refuse_links_out
from seqmtl.types import Field, Schema, Task

LAYOUT_VERSION = 1
SPLITS = ("train", "valid", "test")

# What happens after the impression is an outcome, never an input: Tenrec, KuaiRand, and seqmtl's own row number.
OUTCOMES = frozenset(
    {"_row", "watching_times", "play_time_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter", "is_comment"}
    | {"is_hate", "is_click", "is_like", "is_follow", "is_forward", "long_view"}
)


@dataclass(frozen=True)
class Meta:
    """The contents of meta.json.

    Attributes:
        fields: number of ids of each field, 0 included.
        parents: the parent of each task, in the order of the tasks.
        rows: rows of each split.
        positives: positives of each split and task.
        bags: `size` (number of ids) and `items` (how many are stored) of each multi-valued field beside the shards.
        histories: `field` (what its ids are of) and `items` (how many are stored) of each behaviour beside the shards.
        dropped: raw rows left out, by reason.
        fixed: labels changed so that no step happens without its parent, by reason.
        options: the `dataset.prepare` that made the data; None where another tool wrote them.
        sources: sha256 and bytes of each raw file.
        shards: rows and bytes of each Parquet file and history, by its path inside the dataset.
        statistics: what a converter says of the rows (lengths of histories, rates by position); for people to read.
        checksum: changes with any row of the data; empty where another tool wrote them.
    """

    fields: dict[str, int]
    parents: dict[str, str | None]
    rows: dict[str, int]
    positives: dict[str, dict[str, int]] = field(default_factory=dict)
    histories: dict[str, Any] = field(default_factory=dict)
    bags: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    fixed: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] | None = None
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: dict[str, dict[str, int]] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    checksum: str = ""
    version: int = LAYOUT_VERSION

    def schema(self) -> Schema:
        """All single-valued fields and tasks of the data, as the models see them."""
        return Schema(
            fields=tuple(Field(name, size) for name, size in self.fields.items()),
            tasks=tuple(Task(name, parent) for name, parent in self.parents.items()),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def prepare_command(directory: Path) -> str:
    """The command that makes the dataset in `directory`."""
    data_dir = directory.absolute().parent
    place = "" if data_dir == Path("data").absolute() else f" data_dir={data_dir}"
    return f"seqmtl prepare dataset={directory.name}{place}"


def prepare_again(directory: Path) -> str:
    """What to do about a damaged dataset."""
    return f"prepare the dataset again ({prepare_command(directory)} overwrite=true)"


def read_meta(directory: Path) -> Meta:
    """Read and check `directory`/meta.json.

    Raises:
        FileNotFoundError: there is none (the caller knows which command makes it).
        SeqmtlError: it is damaged, of another version, lacks a key, names an outcome as a field, or leads out of `directory`.
    """
    path = directory / "meta.json"
    refuse_links_out(directory)
    text = path.read_text(encoding="utf-8", errors="replace")
    again = prepare_again(directory)
    try:
        raw = json.loads(text)
        version = raw["version"]
    except (ValueError, KeyError, TypeError) as e:
        raise SeqmtlError(f"{path} is damaged or no meta.json of seqmtl ({e}); {again}") from None
    if version != LAYOUT_VERSION:
        raise SeqmtlError(f"{path} has version {version}, this seqmtl reads version {LAYOUT_VERSION}; {again}")
    known = Meta.__dataclass_fields__
    try:
        meta = Meta(**{k: v for k, v in raw.items() if k in known})
        if not all(isinstance(getattr(meta, key), dict) for key in ("fields", "parents", "rows", "shards", "histories", "bags")):
            raise TypeError("fields, parents, rows, shards, histories and bags must be objects")
        check_file_names(raw)
        checks = [_size(n) for n in meta.fields.values()]
        for name, history in meta.histories.items():
            if history["field"] not in meta.fields or not _count(history["items"]):
                raise TypeError(f"history {name} must have the field that it is made of and the number of its items")
        for name, bag in meta.bags.items():
            if not (_size(bag["size"]) and _count(bag["items"])):
                raise TypeError(f"the multi-valued field {name} must have its size and the number of its items")
        for name in (*meta.histories, *meta.bags):
            if {f"{name}_end", f"{name}_len"} & {*meta.fields, *meta.parents} or name in meta.histories.keys() & meta.bags:
                raise TypeError(f"{name} cannot be the name of a history or multi-valued field beside the other names")
        if not all(isinstance(meta.positives.get(split, {}), dict) for split in SPLITS):
            raise TypeError("positives must be {split: {task: number}}")
        checks += [isinstance(meta.rows[split], int) and meta.rows[split] >= 0 for split in SPLITS]
        if not (all(checks) and meta.fields and meta.parents):
            raise TypeError("there must be a field and a task, sizes of fields above 0 and below 2^31, and rows of each split")
        meta.schema()  # refuses a parent that is unknown
    except (TypeError, KeyError, AttributeError, SeqmtlError) as e:
        raise SeqmtlError(f"{path} is damaged: {e}; {again}") from None
    outcomes = sorted((OUTCOMES | set(meta.parents)) & set(meta.fields))
    if outcomes:
        raise SeqmtlError(
            f"{path}: {', '.join(outcomes)} happens after the impression or is a label, so it must not be a field;"
            " take it out of `fields`"
        )
    return meta


def check_file_names(raw: Mapping[str, Any]) -> None:
    """Refuse names in a meta.json that would lead out of the dataset, or out of a run directory.

    Raises:
        SeqmtlError: names the first.
    """
    for key in ("fields", "parents", "histories", "bags"):
        for name in raw.get(key, {}):
            file_name(name, f"a name in {key}")
    for path in raw.get("shards", {}):
        for part in path.split("/"):
            file_name(part, f"a part of '{path}' in shards")


def _count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 0


def _size(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31  # ids are int32


def data_version(directory: Path, meta: Meta) -> str:
    """What a finished run remembers of the data: the checksum; of another tool's, one of meta.json and its files' sizes, times."""
    if meta.checksum:
        return meta.checksum
    files = sorted(p for pattern in ("*/*.parquet", "*/*.npy") for p in directory.glob(pattern))
    sizes = [(p.relative_to(directory).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    text = (directory / "meta.json").read_text(encoding="utf-8") + json.dumps(sizes)
    return hashlib.sha256(text.encode()).hexdigest()
