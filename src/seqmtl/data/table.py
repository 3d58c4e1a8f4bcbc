"""A split in memory: Parquet shards → two tensors, checked once, so that no batch needs a check.

Unusual: columns go from Arrow to the tensor one by one, so the peak is the tensor and one column of one shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from seqmtl.data.meta import Meta, prepare_again
from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema


@dataclass(frozen=True)
class Table:
    """Rows of one split. Shapes: fields (N,F) int32 · y (N,T) int8."""

    fields: Tensor
    y: Tensor

    def __len__(self) -> int:
        return int(self.fields.shape[0])


def load_table(directory: Path, meta: Meta, schema: Schema, split: str) -> Table:
    """Read the fields and tasks of `schema` from `directory`/`split`/*.parquet, in the order of the shards' names.

    Raises:
        SeqmtlError: a shard is missing, damaged, lacks a column, or holds an id or a label out of range, or rows are missing.
    """
    shards = _shards(directory, meta, split)
    rows = meta.rows[split]
    fields = np.empty((rows, len(schema.fields)), np.int32)
    y = np.empty((rows, len(schema.tasks)), np.int8)
    start = 0
    for path in shards:
        table = _read(path, [*schema.field_names, *schema.task_names])
        stop = start + table.num_rows
        if stop > rows:
            break
        for i, field in enumerate(schema.fields):
            fields[start:stop, i] = _column(table, field.name, field.size, "ids", path)
        for t, task in enumerate(schema.task_names):
            y[start:stop, t] = _column(table, task, 2, "labels", path)
        start = stop
    if start != rows or stop > rows:
        raise SeqmtlError(f"{directory / split} does not hold the {rows:,} rows that meta.json names; {prepare_again(directory)}")
    if not rows:
        raise SeqmtlError(f"{directory / split} has no rows; {prepare_again(directory)}")
    return Table(torch.from_numpy(fields), torch.from_numpy(y))


def _shards(directory: Path, meta: Meta, split: str) -> list[Path]:
    named = sorted(directory / name for name in meta.shards if name.startswith(f"{split}/"))
    shards = named or sorted((directory / split).glob("*.parquet"))
    missing = [path for path in shards if not path.is_file()]
    if missing or not shards:
        what = missing[0] if missing else directory / split / "*.parquet"
        raise SeqmtlError(f"the shard {what} is missing; {prepare_again(directory)}")
    return shards


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        lacking = [name for name in columns if name not in file.schema_arrow.names]
        if lacking:
            raise SeqmtlError(f"{path} has no column {', '.join(lacking)}; {prepare_again(path.parents[1])}")
        return file.read(columns=columns)
    except (pa.ArrowException, OSError) as e:
        reason = str(e).splitlines()[0]
        raise SeqmtlError(f"{path} is damaged or truncated ({reason}); {prepare_again(path.parents[1])}") from None


def _column(table: pa.Table, name: str, size: int, what: str, path: Path) -> np.ndarray:
    """One column as numpy, every value in [0, size)."""
    column = table.column(name)
    if column.null_count or not pa.types.is_integer(column.type):
        raise SeqmtlError(
            f"{path}: column '{name}' must hold integers and no nulls, but is {column.type} with {column.null_count} nulls;"
            f" {prepare_again(path.parents[1])}"
        )
    values = column.to_numpy()
    if len(values) and (values.min() < 0 or values.max() >= size):
        row = int(np.argmax((values < 0) | (values >= size)))
        raise SeqmtlError(
            f"{path}: row {row} has {values[row]} in column '{name}', whose {what} run from 0 to {size - 1};"
            f" {prepare_again(path.parents[1])}"
        )
    return values
