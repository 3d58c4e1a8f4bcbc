"""The true probabilities beside simulated raw files: `oracle_<part>.parquet`, a row for each raw row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError

BATCH = 65_536
Columns = dict[str, NDArray[Any]]


class Truth:
    """Read in step with the raw rows, never as a whole.

    Raises:
        SeqmtlError: it cannot be read, or its rows are not the raw ones.
    """

    def __init__(self, path: Path, tasks: tuple[str, ...]) -> None:
        import pyarrow.parquet as pq

        self.path, self.tasks = path, tasks
        self.names = ("_row", *tasks)
        self.done = 0
        with self._readable():
            self.file = pq.ParquetFile(path)
        missing = [name for name in self.names if name not in self.file.schema_arrow.names]
        if missing:
            raise SeqmtlError(f"{path} has no column {', '.join(missing)}; simulate the raw files again, or remove it")
        self.batches = self.file.iter_batches(BATCH, columns=list(self.names))
        self.waiting: list[Columns] = []

    def next(self, n: int, rows: NDArray[np.int64]) -> Columns:
        """The probabilities of `rows`, counted from 0 inside the next `n` raw rows."""
        if not n:
            return {task: np.empty(0) for task in self.tasks}
        have = sum(len(columns["_row"]) for columns in self.waiting)
        with self._readable():
            while have < n and (batch := next(self.batches, None)) is not None:
                self.waiting.append({name: batch.column(name).to_numpy(zero_copy_only=False) for name in self.names})
                have += len(batch)
        if have < n:
            self._refuse()
        whole = {name: np.concatenate([columns[name] for columns in self.waiting]) for name in self.names}
        if not np.array_equal(whole["_row"][:n], np.arange(self.done, self.done + n)):
            self._refuse()
        self.done += n
        self.waiting = [{name: values[n:] for name, values in whole.items()}]
        return {task: whole[task][rows] for task in self.tasks}

    def finish(self) -> None:
        """All of it must have been taken."""
        if self.file.metadata.num_rows != self.done:
            self._refuse()

    def _refuse(self) -> None:
        raise SeqmtlError(f"{self.path} does not hold the rows of the raw file beside it; simulate both again, or remove it")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as e:  # pyarrow's errors are one or the other
            raise SeqmtlError(f"{self.path} cannot be read ({e}); simulate the raw files again, or remove it") from e
