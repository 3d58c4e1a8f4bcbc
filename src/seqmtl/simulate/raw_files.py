"""The raw files of simulations that grow chunk by chunk: a log in Parquet, and the truth beside the raw rows.

Unusual: no public layout exists for the private logs, so this is ours: `log-00000.parquet`, … of LOG_ROWS rows each, one row per
impression, in time order. `oracle_<part>.parquet` has the number of each raw row (`_row`, over all files) and the true
probability of every step over all impressions, in the order of the raw rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow.parquet as pq

CHUNK = 250_000  # rows that are made at once
LOG_ROWS = 1_000_000  # of one file; whole chunks
START, SPAN = 1_600_000_000, 30 * 86_400  # of a log, in seconds

Report = Callable[[str, int, float], None]
"""What is being done, rows so far, share of the whole."""


def silent(what: str, rows: int, share: float) -> None:
    """Reports to nobody."""


def clock(first: int, rows: int, total: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Second, hour of the day, and time from 0 to 1, of the rows from `first` on of a log with `total` rows, evenly spread."""
    row = np.arange(first, first + rows)
    second = START + row * SPAN // total
    return second, second // 3600 % 24, row / max(total - 1, 1)


class OracleFile:
    """oracle_<part>.parquet, written in the order of the rows; a context manager."""

    def __init__(self, directory: Path, part: str, tasks: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.tasks = list(tasks)
        self.rows = 0
        schema = pa.schema([("_row", pa.int64()), *((task, pa.float64()) for task in tasks)])
        self._writer = pq.ParquetWriter(
            directory / f"oracle_{part}.parquet",
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(schema.names, "BYTE_STREAM_SPLIT"),
        )

    def add(self, probabilities: NDArray[np.float64]) -> None:
        """Appends rows (N, T)."""
        import pyarrow as pa

        row = np.arange(self.rows, self.rows + len(probabilities))
        columns = {"_row": row} | {t: np.ascontiguousarray(probabilities[:, i]) for i, t in enumerate(self.tasks)}
        self._writer.write_table(pa.table(columns))
        self.rows += len(probabilities)

    def __enter__(self) -> OracleFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()


class Log:
    """log-00000.parquet, …; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Appends a chunk; LOG_ROWS is a multiple of what is given but for the last."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(dict(columns))
        if self.rows % LOG_ROWS == 0:
            self._close()
            path = self.directory / f"log-{self.rows // LOG_ROWS:05d}.parquet"
            self._writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        assert self._writer is not None
        self._writer.write_table(table)
        self.rows += len(table)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
