"""Files of a dataset that grow while the rows come: histories, and the truth of a simulation.

Unusual: both grow under a temporary name and take their own only when they are whole and on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from seqmtl.data.meta import SPLITS
from seqmtl.disk import disk_errors, sync_directory
from seqmtl.errors import SeqmtlError

ROW_GROUP = 131_072
CUTS = (10, 20, 50)  # lengths to which models cut histories


def parquet_bytes(columns: Mapping[str, NDArray[Any]]) -> memoryview:
    """A Parquet file in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    split = dict.fromkeys(table.column_names, "BYTE_STREAM_SPLIT")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=False, column_encoding=split)
    return memoryview(sink.getvalue())


def whole(values: NDArray[Any], kind: str, what: str) -> NDArray[Any]:
    """The values as another type, and not others that fit into it."""
    values = np.asarray(values)
    cast = values.astype(kind, copy=False)
    if cast is not values and not np.array_equal(cast, values):
        raise SeqmtlError(f"{what} has values that are no {np.dtype(kind)}")
    return cast


class _Growing:
    """A file under a temporary name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.temporary.open("wb")

    def close(self) -> int:
        """Gives the file its name; its bytes."""
        with disk_errors(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            size = self.file.seek(0, os.SEEK_END)
            self.file.close()
            self.temporary.replace(self.path)
            sync_directory(self.path.parent)
        return size


class HistoryFile:
    """<name>.npy: a flat array of int32 ids, and what the rows of the shards say about it.

    Args:
        directory: where the file goes.
        name: the behaviour; `field`: what its ids are of.
    """

    def __init__(self, directory: Path, name: str, field: str) -> None:
        self.name, self.field = name, field
        self.items = 0
        self._highest = 0  # id
        self._last_end = 0
        self._counts = {split: np.zeros(3 + len(CUTS), np.int64) for split in SPLITS}  # rows, empty, sum, sums when cut
        self._longest = dict.fromkeys(SPLITS, 0)
        self._digest = hashlib.sha256()
        self._growing = _Growing(directory / f"{name}.npy")
        self._header()

    def _header(self) -> None:
        # numpy leaves room in the header for any number of items, so that it can be written again at the end.
        shape = {"descr": "<i4", "fortran_order": False, "shape": (self.items,)}
        npy.write_array_header_1_0(self._growing.file, shape)

    def add(self, ids: NDArray[Any]) -> None:
        """Appends ids."""
        ids = np.ascontiguousarray(whole(ids, "<i4", f"history {self.name}"))
        if not len(ids):
            return
        if ids.min() < 0:
            raise SeqmtlError(f"history {self.name} has a negative id ({ids.min()})")
        self._highest = max(self._highest, int(ids.max()))
        self.items += len(ids)
        self._digest.update(ids.data)
        with disk_errors(self._growing.path):
            self._growing.file.write(ids.data)

    def seen(self, split: str, end: NDArray[np.int64], length: NDArray[np.int32]) -> None:
        """Takes note of rows, and refuses those that do not fit."""
        if length.min() < 0 or (end < length).any():
            raise SeqmtlError(f"history {self.name} has rows in split {split} that begin before the flat array does")
        self._last_end = max(self._last_end, int(end.max()))
        self._longest[split] = max(self._longest[split], int(length.max()))
        sums = [int(np.minimum(length, cut).sum(dtype=np.int64)) for cut in CUTS]
        self._counts[split] += [len(length), int((length == 0).sum()), int(length.sum(dtype=np.int64)), *sums]

    def finish(self, size: int) -> tuple[dict[str, int], str]:
        """Brings the file to its place; its entry in meta.json and its hash.

        Args:
            size: number of ids of the field.
        """
        if self._highest >= size:
            raise SeqmtlError(f"history {self.name} has id {self._highest}, but field {self.field} has only {size} ids")
        if self._last_end > self.items:
            raise SeqmtlError(f"history {self.name} holds {self.items} ids, but a row ends at {self._last_end}")
        with disk_errors(self._growing.path):
            self._growing.file.seek(0)
            self._header()
        return {"rows": self.items, "bytes": self._growing.close()}, self._digest.hexdigest()

    def lengths(self) -> dict[str, dict[str, float]]:
        """For each split: mean length, the mean of those cut to 10, 20 and 50, the longest, and the share of empty ones."""
        told = {}
        for split, (rows, empty, total, *cut) in ((s, c.tolist()) for s, c in self._counts.items()):
            means = {f"mean_of_last_{n}": round(c / rows, 4) for n, c in zip(CUTS, cut, strict=True)}
            told[split] = {"mean": round(total / rows, 4), **means, "max": self._longest[split], "empty": round(empty / rows, 4)}
        return told


class TruthFile:
    """oracle/<split>.parquet: `_row` and the true probability of each task."""

    def __init__(self, path: Path, tasks: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.tasks = list(tasks)
        self._growing = _Growing(path)
        self._schema = pa.schema([("_row", pa.int64()), *((task, pa.float64()) for task in self.tasks)])
        self._writer = pq.ParquetWriter(self._growing.file, self._schema, compression="zstd")

    def add(self, rows: NDArray[np.int64], truth: Mapping[str, NDArray[Any]]) -> None:
        """Appends the probabilities of rows."""
        import pyarrow as pa

        columns = {"_row": rows, **{task: truth[task] for task in self.tasks}}
        with disk_errors(self._growing.path):
            self._writer.write_table(pa.table(columns, schema=self._schema), row_group_size=ROW_GROUP)

    def finish(self) -> None:
        """Brings the file to its place."""
        with disk_errors(self._growing.path):
            self._writer.close()
        self._growing.close()
