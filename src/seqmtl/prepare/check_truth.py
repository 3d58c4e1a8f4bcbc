"""The truth of a simulation, oracle/<split>.parquet, read in step with the shards: the same rows in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.prepare.check_findings import Findings, first_line

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "oracle"
BATCH = 131_072
ROUNDING = 1e-9  # of products of probabilities


class Truth:
    """Compares the file, where there is one, with the rows of the shards as they come.

    `parents`: of each task, None where none is enforced.
    """

    def __init__(self, directory: Path, split: str, parents: Mapping[str, str | None], findings: Findings) -> None:
        self.name, self.findings, self.parents = f"oracle/{split}.parquet", findings, parents
        self.rows: int | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._left: dict[str, NDArray[Any]] = {}
        self._wrong = (0, "")  # rows of another number, and the first of them
        if (directory / self.name).is_file():
            self._open(directory / self.name)

    def compare(self, row: NDArray[Any] | None, n: int, where: Callable[[int], str]) -> None:
        """The next `n` rows of the shards, with their `_row` if it can be read; `where` names the i-th of them."""
        if self.rows is None:
            return
        truth = self._next(n)
        if row is not None and "_row" in truth:
            m = len(truth["_row"])  # fewer than n at the end of a file that is too short, which `finish` tells
            wrong = truth["_row"] != row[:m]
            if wrong.any():
                self._wrong = (self._wrong[0] + int(np.count_nonzero(wrong)), self._wrong[1] or where(int(np.argmax(wrong))))
        for task in self.parents:
            if task in truth:
                self._probabilities(task, truth, where)

    def finish(self, rows: int) -> None:
        """After all `rows` of the shards."""
        wrong, where = self._wrong
        if self.rows is not None and self.rows != rows:
            self.findings.error(KIND, f"{self.name} has {self.rows:,} rows, but the shards have {rows:,}")
        elif wrong:
            self.findings.error(
                KIND, f"{self.name}: _row is not that of the shards in their order: {wrong:,} rows, the first is {where}"
            )

    def _open(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError, ValueError) as e:
            self.findings.error(KIND, f"{self.name} is damaged or truncated ({first_line(e)})")
            return
        columns = []
        for name in ("_row", *self.parents):
            at = file.schema_arrow.get_field_index(name)
            kind = file.schema_arrow.field(at).type if at >= 0 else None
            if kind is None:
                self.findings.error(KIND, f"{self.name} has no column '{name}'")
            elif not (pa.types.is_integer(kind) if name == "_row" else pa.types.is_floating(kind)):
                self.findings.error(
                    KIND, f"{self.name}: column '{name}' is {kind} and must be {'int64' if name == '_row' else 'double'}"
                )
            else:
                columns.append(name)
        self.rows = file.metadata.num_rows
        if columns:
            self._batches = file.iter_batches(BATCH, columns=columns)

    def _next(self, n: int) -> dict[str, NDArray[Any]]:
        """The next n rows, or as many as there are."""
        import pyarrow as pa

        parts = [self._left] if self._left else []
        have = sum(_rows(part) for part in parts)
        while have < n:
            try:
                batch = next(self._batches, None)
            except (pa.ArrowException, OSError, ValueError) as e:
                self.findings.error(KIND, f"{self.name} is damaged ({first_line(e)})")
                batch, self.rows = None, None
            if batch is None:
                break
            parts.append({name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names})
            have += len(batch)
        columns = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in (parts or [{}])[0]}
        self._left = {name: values[n:] for name, values in columns.items()} if have > n else {}
        return {name: values[:n] for name, values in columns.items()}

    def _probabilities(self, task: str, truth: Mapping[str, NDArray[Any]], where: Callable[[int], str]) -> None:
        p, parent = truth[task], self.parents[task]
        wrong = {f"the probability of '{task}' is outside of 0..1": ~((p >= 0) & (p <= 1))}  # a null is NaN here
        if parent is not None and parent in truth:
            what = f"the probability of '{task}' is above that of '{parent}', its parent (both are over all impressions)"
            wrong[what] = p > truth[parent] + ROUNDING
        for what, rows in wrong.items():
            if rows.any():
                self.findings.count(KIND, f"{self.name}: {what}", int(np.count_nonzero(rows)), where(int(np.argmax(rows))))


def _rows(columns: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(columns.values())))
