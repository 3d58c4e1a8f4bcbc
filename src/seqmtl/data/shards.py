"""The Parquet shards of one split as blocks of rows: what is read at once, checked once, so that no batch needs a check.

Unusual: a block is a row group. Its columns go from Arrow to the tensors one by one, so the peak is the tensors and one block.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqmtl.data.downsample import Downsample
from seqmtl.data.histories import Sequence, sequences
from seqmtl.data.meta import Meta, prepare_again
from seqmtl.data.rows import Rows
from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema


class _Block(NamedTuple):
    """A row group of a shard, and how many rows of the shard stand before it."""

    path: Path
    footer: pq.FileMetaData
    group: int
    first: int


class Shards:
    """One split on the disk, in the order of the shards' names.

    Args:
        directory: the prepared dataset; `meta`: its meta.json.
        schema: the fields, tasks and histories to read.
        split: train, valid or test.
        downsample: leaves out negatives of a task.

    Attributes:
        sizes: rows of each block (blocks,).

    Raises:
        SeqmtlError: a shard is missing, damaged or lacks a column, or rows are missing.
    """

    def __init__(self, directory: Path, meta: Meta, schema: Schema, split: str, downsample: Downsample | None = None) -> None:
        self.directory, self.meta, self.schema, self.downsample = directory, meta, schema, downsample
        self.fields = [field for field in schema.fields if not field.bag]
        self.sequences = sequences(meta, schema)
        lengths = [f"{sequence.name}_{what}" for sequence in self.sequences for what in ("end", "len")]
        self.columns = [*(field.name for field in self.fields), *schema.task_names, *lengths]
        thinned = [] if downsample is None else ["_row", downsample.task]
        footers = [(path, _footer(path, {*self.columns, *thinned})) for path in _paths(directory, meta, split)]
        # The footers are kept and not the open files, of which a process may have only so many.
        self._blocks: list[_Block] = []
        sizes: list[int] = []
        for path, footer in footers:
            groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            self._blocks += [_Block(path, footer, group, sum(groups[:group])) for group in range(len(groups))]
            sizes += groups
        if sum(sizes) != meta.rows[split]:
            raise SeqmtlError(
                f"{directory / split} holds {sum(sizes):,} rows and not the {meta.rows[split]:,} that meta.json names;"
                f" {prepare_again(directory)}"
            )
        if downsample is not None:
            sizes = [int(self._mask(b).sum()) for b in range(len(sizes))]
        self.sizes = np.array(sizes, np.int64)
        if not len(self):
            raise SeqmtlError(f"{directory / split} has no rows; {prepare_again(directory)}")

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def load(self) -> Rows:
        """The whole split."""
        return self.read(range(len(self.sizes)))

    def read(self, blocks: Iterable[int]) -> Rows:
        """Some blocks, one after another.

        Raises:
            SeqmtlError: a shard is damaged, or holds an id, a label or a history out of range.
        """
        blocks = list(blocks)
        n = sum(int(self.sizes[b]) for b in blocks)
        rows = Rows.room(n, len(self.fields), len(self.schema.tasks), len(self.sequences))
        fields, y, end, length = rows.fields, rows.y, rows.end, rows.length
        start = 0
        for b in blocks:
            block, table = self._blocks[b], self._table(b, self.columns)
            stop = start + int(self.sizes[b])
            keep = slice(None) if self.downsample is None else self._mask(b)
            for i, field in enumerate(self.fields):
                fields[start:stop, i] = _column(table, field.name, field.size, "ids", block)[keep]
            for t, task in enumerate(self.schema.task_names):
                y[start:stop, t] = _column(table, task, 2, "labels", block)[keep]
            for m, sequence in enumerate(self.sequences):
                ends, lengths = self._bounds(table, sequence, block)
                end[start:stop, m], length[start:stop, m] = ends[keep], lengths[keep]
            start = stop
        return rows

    def row_numbers(self) -> NDArray[np.int64]:
        """`_row` (N,) of the whole split, in the same order.

        Raises:
            SeqmtlError: a shard has no such column, or is damaged.
        """
        for path in dict.fromkeys(block.path for block in self._blocks):
            _footer(path, {"_row"})
        numbers, start = np.empty(len(self), np.int64), 0
        for b, size in enumerate(self.sizes):
            keep = slice(None) if self.downsample is None else self._mask(b)
            column = _column(self._table(b, ["_row"]), "_row", np.iinfo(np.int64).max, "numbers", self._blocks[b])
            numbers[start : start + size] = column[keep]
            start += size
        return numbers

    def _bounds(self, table: pa.Table, sequence: Sequence, block: _Block) -> tuple[NDArray[Any], NDArray[Any]]:
        """Ends and lengths of a history or a multi-valued field, which must lie inside its flat array."""
        ends = _column(table, f"{sequence.name}_end", sequence.items + 1, "ends", block)
        lengths = _column(table, f"{sequence.name}_len", sequence.items + 1, "lengths", block)
        if (lengths > ends).any():
            row = int(np.argmax(lengths > ends))
            raise SeqmtlError(
                f"{block.path}: row {block.first + row} has {sequence.name}_len {lengths[row]}"
                f" above {sequence.name}_end {ends[row]};"
                f" {prepare_again(self.directory)}"
            )
        return ends, lengths

    def _mask(self, block: int) -> NDArray[np.bool_]:
        assert self.downsample is not None
        where, table = self._blocks[block], self._table(block, ["_row", self.downsample.task])
        row = _column(table, "_row", np.iinfo(np.int64).max, "numbers", where)
        return self.downsample.mask(_column(table, self.downsample.task, 2, "labels", where), row)

    def _table(self, block: int, columns: list[str]) -> pa.Table:
        where = self._blocks[block]
        try:
            with pq.ParquetFile(where.path, metadata=where.footer) as file:
                return file.read_row_group(where.group, columns=columns)
        except (pa.ArrowException, OSError, ValueError) as e:
            raise _damaged(where.path, e) from None


def _paths(directory: Path, meta: Meta, split: str) -> list[Path]:
    named = sorted(directory / name for name in meta.shards if name.startswith(f"{split}/"))
    paths = named or sorted((directory / split).glob("*.parquet"))
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = missing[0] if missing else directory / split / "*.parquet"
        raise SeqmtlError(f"the shard {what} is missing; {prepare_again(directory)}")
    return paths


def _footer(path: Path, columns: set[str]) -> pq.FileMetaData:
    try:
        footer = pq.read_metadata(path)
        names = footer.schema.to_arrow_schema().names
    except (pa.ArrowException, OSError, ValueError) as e:  # a damaged name of a column is no UTF-8
        raise _damaged(path, e) from None
    lacking = sorted(columns - set(names))
    if lacking:
        raise SeqmtlError(f"{path} has no column {', '.join(lacking)}; {prepare_again(path.parents[1])}")
    return footer


def _damaged(path: Path, error: Exception) -> SeqmtlError:
    return SeqmtlError(f"{path} is damaged or truncated ({str(error).splitlines()[0]}); {prepare_again(path.parents[1])}")


def _column(table: pa.Table, name: str, size: int, what: str, block: _Block) -> NDArray[Any]:
    """One column as numpy, every value in [0, size)."""
    column, path = table.column(name), block.path
    if column.null_count or not pa.types.is_integer(column.type):
        raise SeqmtlError(
            f"{path}: column '{name}' must hold integers and no nulls, but is {column.type} with {column.null_count} nulls;"
            f" {prepare_again(path.parents[1])}"
        )
    values: NDArray[Any] = column.to_numpy()
    if len(values) and (values.min() < 0 or values.max() >= size):
        row = int(np.argmax((values < 0) | (values >= size)))
        raise SeqmtlError(
            f"{path}: row {block.first + row} has {values[row]} in column '{name}', whose {what} run from 0 to {size - 1};"
            f" {prepare_again(path.parents[1])}"
        )
    return values
