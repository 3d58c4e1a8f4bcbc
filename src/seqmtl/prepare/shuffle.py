"""Rows put aside on the disk: dealt to buckets, read again bucket by bucket; and with that a shuffle of any number of rows.

Unusual: rows that go to a random bucket each, and are permuted inside it, are permuted as a whole: every order is as likely as any
other, though only one bucket is in memory at a time. Both draws are made per row, so the order does not depend on how the rows
were cut into chunks.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seqmtl.disk import disk_errors

Columns = Mapping[str, NDArray[Any]]


class Buckets:
    """Files of rows below `directory`, which vanishes on `close`. Inside a bucket rows keep the order in which they came.

    Args:
        types: numpy type of each column.
        n: number of buckets.

    Raises:
        SeqmtlError: the disk refuses.
    """

    def __init__(self, directory: Path, types: Mapping[str, str], n: int) -> None:
        self.directory = directory
        self.row = np.dtype(list(types.items()))
        self.n = n
        self.rows = np.zeros(n, np.int64)
        self._files: list[BinaryIO] = []
        with disk_errors(directory):
            directory.mkdir(parents=True)
            self._files = [self._path(b).open("wb") for b in range(n)]

    def __len__(self) -> int:
        return int(self.rows.sum())

    def add(self, columns: Columns, bucket: NDArray[np.integer[Any]]) -> None:
        """Appends rows; `bucket` (rows,) says where each goes."""
        records = np.empty(len(bucket), self.row)
        for name in self.row.names or ():
            records[name] = columns[name]
        # Numbers of 16 bits are sorted by radix; `take` moves whole records, an index would move them field by field.
        order = np.argsort(bucket.astype(np.uint16) if self.n <= 1 << 16 else bucket, kind="stable")
        records, counts = records.take(order), np.bincount(bucket, minlength=self.n)
        self.rows += counts
        with disk_errors(self.directory):
            for b, (stop, count) in enumerate(zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True)):
                if count:
                    self._files[b].write(records[stop - count : stop].data.cast("B"))

    def read(self, bucket: int) -> dict[str, NDArray[Any]]:
        """The rows of a bucket, column by column; nothing can be added afterwards."""
        records = self._records(bucket)
        return {name: np.ascontiguousarray(records[name]) for name in self.row.names or ()}

    def close(self) -> None:
        """Removes the files."""
        for file in self._files:
            with contextlib.suppress(OSError):  # of a disk that is full: what is removed need not be written
                file.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _records(self, bucket: int) -> NDArray[Any]:
        with disk_errors(self.directory):
            self._files[bucket].close()
            return np.fromfile(self._path(bucket), self.row)

    def _path(self, bucket: int) -> Path:
        return self.directory / f"{bucket:05d}.rows"

    def __enter__(self) -> Buckets:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Shuffle(Buckets):
    """All rows in a random order that depends on `seed`, the rows and the number of buckets alone."""

    def __init__(self, directory: Path, types: Mapping[str, str], n: int, seed: int) -> None:
        super().__init__(directory, types, n)
        self.seed = seed
        self._deal = np.random.default_rng([seed, 0])

    def add_rows(self, columns: Columns) -> None:
        """Appends rows, each to a bucket by chance."""
        draws = self._deal.random(len(columns[(self.row.names or ())[0]]))
        self.add(columns, (draws * self.n).astype(np.int64))

    def chunks(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Every row once, a bucket at a time."""
        for bucket in range(self.n):
            records = self._records(bucket)
            order = np.random.default_rng([self.seed, 1, bucket]).permutation(len(records))
            records = records.take(order)
            yield {name: np.ascontiguousarray(records[name]) for name in self.row.names or ()}
            self._path(bucket).unlink()
