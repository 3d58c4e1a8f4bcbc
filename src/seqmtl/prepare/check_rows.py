"""The values in the shards, row group by row group: ids, labels, the order of the steps, ends and lengths of histories.

Unusual: a column costs its smallest and its largest value; rows are looked at one by one only where these are out of range.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import Meta
from seqmtl.plural import plural
from seqmtl.prepare.check_files import Shard
from seqmtl.prepare.check_findings import Findings, first_line
from seqmtl.prepare.check_row_numbers import GOLDEN, RowNumbers
from seqmtl.prepare.check_truth import Truth
from seqmtl.prepare.checksum import shard_hash
from seqmtl.prepare.raw import Report

if TYPE_CHECKING:
    import pyarrow as pa

Columns = dict[str, NDArray[Any]]


@dataclass
class Counted:
    """What was seen of a split.

    Attributes:
        rows: that could be read; `shards`: of how many files.
        positives: of each task; `lowest`, `highest`: id of each field; `items`: sum of the lengths of each history.
        hashes: of each shard, where they are asked for; a shard that is not whole has none.
    """

    rows: int = 0
    shards: int = 0
    positives: dict[str, int] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


class SplitCheck:
    """Goes once through the rows of a split; the truth of a simulation in `directory` is read in step."""

    def __init__(self, directory: Path, meta: Meta, split: str, findings: Findings, numbers: RowNumbers, report: Report) -> None:
        self.directory, self.meta, self.split = directory, meta, split
        self.findings, self.numbers, self.report = findings, numbers, report
        self.sequences = {name: int(of["items"]) for name, of in (meta.histories | meta.bags).items()}
        told = meta.statistics.get("order_violations")
        kept = told if isinstance(told, dict) else {}
        edges = [(task, parent) for task, parent in meta.parents.items() if parent in meta.parents]
        self.edges = [(task, parent, f"{task}_without_{parent}" in kept) for task, parent in edges]
        self.seen = Counted()

    def run(self, shards: list[Shard], whole: bool) -> Counted:
        """The counts of all rows; what is wrong goes to the findings. `whole`: these are all shards of the split."""
        total = max(1, sum(shard.rows for shard in shards))
        self.whole = whole
        self.everywhere = set.intersection(*(set(shard.columns) for shard in shards)) if shards else set()
        parents = dict.fromkeys(self.meta.parents) | {task: parent for task, parent, kept in self.edges if not kept}
        self.truth = Truth(self.directory, self.split, parents, self.findings) if whole else None
        for shard in shards:
            self._shard(shard, total)
        self.seen.shards = len(shards)
        if self.truth is not None:
            self.truth.finish(self.seen.rows)
        self._told()
        return self.seen

    def _shard(self, shard: Shard, total: int) -> None:
        pieces: list[Columns] = []
        whole, start = True, 0
        for rows, table in _tables(shard, self.findings):
            if not rows:
                continue
            place, columns = _Place(shard.name, start), Columns()
            if table is None:
                whole = self.whole = False
            else:
                columns = {name: self._column(table, name, place) for name in shard.columns}
                self._values(columns, place)
                if self.meta.checksum:
                    pieces.append(columns)
            if self.truth is not None:
                self.truth.compare(columns.get("_row"), rows, place.row)
            start += rows
            self.seen.rows += rows
            self.report(f"check {self.split}", self.seen.rows, self.seen.rows / total)
        if pieces and whole:
            self.seen.hashes[shard.name] = shard_hash({name: [piece[name] for piece in pieces] for name in shard.columns})

    def _column(self, table: pa.Table, name: str, place: _Place) -> NDArray[Any]:
        import pyarrow.compute as pc

        column = table.column(name)
        if column.null_count:
            first = pc.index(column.is_null(), True).as_py()
            self._wrong("values", f"column '{name}' is null", column.null_count, place.row(first))
            column = pc.fill_null(column, 0)
        values: NDArray[Any] = column.to_numpy()
        return values

    def _values(self, columns: Columns, place: _Place) -> None:
        for name, size in self.meta.fields.items():
            if name in columns and name not in self.meta.parents:
                low, high = self._range(columns[name], 0, size, f"ids of '{name}'", place)
                self.seen.lowest[name] = min(low, self.seen.lowest.get(name, low))
                self.seen.highest[name] = max(high, self.seen.highest.get(name, high))
        for task in self.meta.parents:
            if task in columns:
                self._range(columns[task], 0, 2, f"labels of '{task}'", place)
                self.seen.positives[task] = self.seen.positives.get(task, 0) + int(np.count_nonzero(columns[task] == 1))
        for task, parent, kept in self.edges:
            if task in columns and parent in columns:
                broken = (columns[task] == 1) & (columns[parent] != 1)
                told = ", kept by the converter on purpose" if kept else ""
                self._mask("labels", f"{task} happens without {parent}, its parent{told}", broken, place, warning=kept)
        for name, items in self.sequences.items():
            self._bounds(columns, name, items, place)
        if "_row" in columns:
            row = columns["_row"].astype(np.int64, copy=False)
            self._range(row, 0, np.iinfo(np.int64).max, "values of '_row'", place)
            at = self.numbers.sample(row)
            self.numbers.add(self.split, row, row[at], self._content(columns, at))

    def _bounds(self, columns: Columns, name: str, items: int, place: _Place) -> None:
        """A row's history is flat[end - len : end]."""
        end, length = columns.get(f"{name}_end"), columns.get(f"{name}_len")
        for values, what in ((end, "end"), (length, "len")):
            if values is not None:
                self._range(values, 0, items + 1, f"values of '{name}_{what}'", place, kind="histories")
        if length is not None:
            self.seen.items[name] = self.seen.items.get(name, 0) + int(length.sum(dtype=np.int64))
        if end is not None and length is not None:
            what = f"{name}_len is above {name}_end: the history begins before the flat array does"
            self._mask("histories", what, length > end, place)

    def _content(self, columns: Columns, at: NDArray[np.intp]) -> NDArray[np.uint64]:
        """A hash of the ids and labels of some rows."""
        digest = np.zeros(len(at), np.uint64)
        for name in (*self.meta.fields, *self.meta.parents):
            if name in columns:
                digest = (digest ^ columns[name][at].astype(np.uint64)) * GOLDEN
                digest ^= digest >> np.uint64(29)
        return digest

    def _range(self, values: NDArray[Any], low: int, size: int, what: str, place: _Place, kind: str = "values") -> tuple[int, int]:
        """Smallest and largest value; those outside of [low, size) are counted."""
        if not len(values):
            return low, low
        smallest, largest = int(values.min()), int(values.max())
        if smallest < low or largest >= size:
            self._mask(kind, f"{what} are outside of {low}..{size - 1}", (values < low) | (values >= size), place, values)
        return smallest, largest

    def _mask(
        self,
        kind: str,
        what: str,
        wrong: NDArray[np.bool_],
        place: _Place,
        values: NDArray[Any] | None = None,
        warning: bool = False,
    ) -> None:
        n = int(np.count_nonzero(wrong))
        if n:
            first = int(np.argmax(wrong))
            self._wrong(kind, what, n, place.row(first) + ("" if values is None else f", with {values[first]}"), warning)

    def _wrong(self, kind: str, what: str, n: int, where: str, warning: bool = False) -> None:
        self.findings.count(kind, f"{self.split}: {what}", n, where, warning=warning)

    def _told(self) -> None:
        """What the sums of the split say; those of rows that lack something are not compared."""
        seen, split = self.seen, self.split
        whole = self.whole and seen.rows == self.meta.rows[split]
        for task, n in seen.positives.items():
            wanted = self.meta.positives.get(split, {}).get(task, n)
            if n != wanted and whole and task in self.everywhere:
                self.findings.error("labels", f"{split}: '{task}' has {plural(n, 'positive')}, not the {wanted:,} of meta.json")
            if n in (0, seen.rows):
                self.findings.warn("labels", f"{split}: every row has {task} = {int(n > 0)}, so it has no AUC")
        for name, low in seen.lowest.items():
            if split == "train" and low == seen.highest[name]:
                self.findings.warn("values", f"train: field '{name}' is {low} in every row, so it tells nothing")
        for name, n in seen.items.items():
            if n == 0:
                self.findings.warn("histories", f"{split}: '{name}' is empty in every row")


@dataclass(frozen=True)
class _Place:
    """Rows of a shard, from the `start`th on."""

    name: str
    start: int

    def row(self, at: int) -> str:
        return f"row {self.start + at:,} of {self.name}"


def _tables(shard: Shard, findings: Findings) -> Iterator[tuple[int, pa.Table | None]]:
    """Rows of each row group, and the group, None if it is damaged; the next one is read while one is looked at."""
    import pyarrow as pa

    sizes = shard.groups

    def read(group: int) -> pa.Table | None:
        try:
            return file.read_row_group(group, columns=shard.columns)
        except (pa.ArrowException, OSError, ValueError) as e:
            findings.error("files", f"{shard.name} is damaged in row group {group} ({first_line(e)})")
            return None

    with shard.open() as file, ThreadPoolExecutor(1, "check") as reader:
        ahead = reader.submit(read, 0) if sizes else None
        for group, rows in enumerate(sizes):
            assert ahead is not None
            table = ahead.result()
            ahead = reader.submit(read, group + 1) if group + 1 < len(sizes) else None
            yield rows, table
