"""Which files a dataset has: those that are missing, those that nothing reads, and shards that are not what meta.json says."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqmtl.data.meta import SPLITS, Meta
from seqmtl.prepare.check_findings import Findings, first_line
from seqmtl.prepare.checksum import column_types

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

KIND = "files"
DATA = {"histories": ".npy", "bags": ".npy", "oracle": ".parquet"} | dict.fromkeys(SPLITS, ".parquet")
MOST_ROWS = 1_000_000  # of a row group, the least that is read at once


@dataclass(frozen=True)
class Shard:
    """A Parquet file of a split that can be read; `columns`: those of the layout that it has, as integers.

    `groups`: rows of each row group.
    """

    path: Path
    name: str
    metadata: pq.FileMetaData
    columns: list[str]

    @property
    def rows(self) -> int:
        return int(self.metadata.num_rows)

    @property
    def groups(self) -> list[int]:
        return [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]

    def open(self) -> pq.ParquetFile:
        """For reading; not all at once, as there may be more shards than a process may open files."""
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path, metadata=self.metadata)


def check_files(directory: Path, meta: Meta, findings: Findings) -> tuple[dict[str, list[Shard]], set[str]]:
    """The shards of each split that can be read, in the order of their names, and the splits of which all can."""
    shards, whole = {}, set()
    for split in SPLITS:
        named = sorted(name for name in meta.shards if name.startswith(f"{split}/"))
        names = named or sorted(f"{split}/{path.name}" for path in (directory / split).glob("*.parquet"))
        shards[split] = _split(directory, meta, split, names, findings)
        if names and len(shards[split]) == len(names):
            whole.add(split)
    for name, entry in meta.shards.items():
        path = directory / name
        if not path.is_file():
            findings.error(KIND, f"{name} is in meta.json, but not there")
        elif path.stat().st_size != entry["bytes"]:
            findings.error(KIND, f"{name} has {path.stat().st_size:,} bytes, not the {entry['bytes']:,} of meta.json")
    _unread(directory, meta, findings)
    n, most = sum(map(len, shards.values())), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if n > most / 2:
        findings.warn(
            KIND, f"a training opens {n:,} shards, but a process may open {most:,} files here; write larger shards, or ulimit -n"
        )
    return shards, whole


def _split(directory: Path, meta: Meta, split: str, names: list[str], findings: Findings) -> list[Shard]:
    if not names:
        findings.error(KIND, f"{split}/*.parquet: there are no shards")
    types = column_types(meta.fields, meta.parents, (*meta.histories, *meta.bags))
    shards = []
    for name in names:
        shard = _open(directory / name, name, types, findings) if (directory / name).is_file() else None
        if shard is not None:
            shards.append(shard)
            if name in meta.shards and shard.rows != meta.shards[name]["rows"]:
                findings.error(KIND, f"{name} has {shard.rows:,} rows, not the {meta.shards[name]['rows']:,} of meta.json")
    rows = sum(shard.rows for shard in shards)
    if len(shards) == len(names) and names and rows != meta.rows[split]:
        findings.error("rows", f"{split} has {rows:,} rows, not the {meta.rows[split]:,} of meta.json")
    _row_groups(split, shards, findings)
    return shards


def _open(path: Path, name: str, types: dict[str, str], findings: Findings) -> Shard | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return Shard(path, name, file.metadata, _columns(name, file.schema_arrow, types, findings))
    except (pa.ArrowException, OSError, ValueError) as e:
        findings.error(KIND, f"{name} is damaged or truncated ({first_line(e)})")
        return None


def _columns(name: str, schema: pa.Schema, types: dict[str, str], findings: Findings) -> list[str]:
    """The columns that can be read. The reader takes any integers, so a wider type only costs room."""
    import pyarrow as pa

    def count(what: str, warning: bool = False) -> None:
        findings.count("columns", what, 1, name, "shards", warning)

    for column in sorted(set(schema.names) - set(types)):
        count(f"column '{column}' is not named by meta.json, so nothing reads it", warning=True)
    right = []
    for column, wanted in types.items():
        found = [schema.field(i).type for i in schema.get_all_field_indices(column)]
        if not found:
            count(f"there is no column '{column}' ({wanted})")
        elif len(found) > 1:
            count(f"column '{column}' stands {len(found)} times")
        elif not pa.types.is_integer(found[0]):
            count(f"column '{column}' is {found[0]} and must be {wanted}")
        else:
            right.append(column)
            if str(found[0]) != wanted:
                count(f"column '{column}' is {found[0]} instead of {wanted}, which is read all the same", warning=True)
    return right


def _row_groups(split: str, shards: list[Shard], findings: Findings) -> None:
    large = [size for shard in shards for size in shard.groups if size > MOST_ROWS]
    if large:
        findings.warn(
            KIND,
            f"{split} has {len(large)} row groups above {MOST_ROWS:,} rows, the largest of {max(large):,}; a row group is the least"
            " that is read at once, so reading from the disk takes the memory of it (50,000 to 500,000 rows are right)",
        )


def _unread(directory: Path, meta: Meta, findings: Findings) -> None:
    """Files that are there for nothing. Those of Spark and Hadoop (`_SUCCESS`, `.part-0.crc`) do no harm."""
    for path in sorted(directory.iterdir()):
        if path.name != "meta.json" and path.name not in DATA:
            findings.warn(KIND, f"{path.name} is no part of a dataset, and keeps seqmtl prepare from overwriting it")
    arrays = {f"{kind}/{name}.npy" for kind in ("histories", "bags") for name in getattr(meta, kind)}
    for folder, suffix in DATA.items():
        listed = any(name.startswith(f"{folder}/") for name in meta.shards)
        for path in sorted((directory / folder).rglob("*")):
            name = path.relative_to(directory).as_posix()
            if path.is_dir() or path.name.startswith((".", "_")):
                continue
            if folder in SPLITS:
                known = name in meta.shards if listed else path.parent.name == folder
            else:
                known = name in (arrays if suffix == ".npy" else {f"oracle/{split}.parquet" for split in SPLITS})
            if path.suffix != suffix:
                findings.warn(KIND, f"{name} is read by nothing")
            elif not known:
                why = (
                    "meta.json names other shards of this split" if listed and folder in SPLITS else "meta.json names no such file"
                )
                nested = folder in SPLITS and not listed
                findings.error(KIND, f"{name} is not read: {'it lies in a folder of its own' if nested else why}")
