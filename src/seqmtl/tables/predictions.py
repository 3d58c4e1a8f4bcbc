"""What finished runs predicted, beside what happened: everything that a table says of test rows comes from here.

The order is that of the shards, which is the order in which a run tests (data/stream.py): `labels` reads it with the same class.
Unusual: of 43 million rows only what is asked for is held, some bytes a row; logits stay on the disk until they are looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import Meta, prepare_again
from seqmtl.data.shards import Shards
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run
from seqmtl.types import Field

ORACLE = "oracle/test.parquet"  # in a prepared dataset that is simulated
BLOCK = 2**20  # rows that are float64 at a time


@dataclass(frozen=True)
class Truth:
    """The test rows, in the order of test_logits.npy.

    Args:
        tasks: of the columns of `y`.
        rows: (N,) number of the raw row, `_row`.
        y: (N,T) labels.
        users: (N,) whose row it is; rows of no known user have one each. None where the dataset names no field of users.
    """

    tasks: tuple[str, ...]
    rows: NDArray[np.int64]
    y: NDArray[np.int8]
    users: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, task: str) -> Truth:
        """Of one task."""
        return replace(self, tasks=(task,), y=self.y[:, [self.tasks.index(task)]])


def labels(directory: Path, meta: Meta, tasks: Sequence[str], user: str | None) -> Truth:
    """The test rows of a prepared dataset.

    Args:
        directory: the prepared dataset; `meta`: its meta.json.
        tasks: of the runs, in their order: `dataset.tasks`.
        user: field of the users, `dataset.user`; None: there is none.

    Raises:
        SeqmtlError: the data have no such task or field, or a shard is missing or damaged.
    """
    schema = replace(meta.schema().keep(tasks), fields=(), histories=(), main_history=None)
    if user is not None:
        if user not in meta.fields:
            raise SeqmtlError(
                f"dataset.user={user} is no field of {directory.name}; choose one of {', '.join(meta.fields)}, or null: by row"
            )
        schema = replace(schema, fields=(Field(user, meta.fields[user]),))
    shards = Shards(directory, meta, schema, "test")
    read = shards.load()
    users = None if user is None else _users(read.fields[:, 0], meta.fields[user])
    return Truth(tuple(tasks), shards.row_numbers(), read.y, users)


def _users(ids: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Id 0 is unknown or filtered: many users of whom nothing is known, and not one; they are numbered after the others."""
    users = ids.astype(np.int64)
    unknown = users == 0
    users[unknown] = size + np.arange(np.count_nonzero(unknown))
    return users


def logits(run: Run, truth: Truth, tasks: Sequence[str] | None = None) -> NDArray[np.float32]:
    """The log-odds (N,T) that a finished run gave to the test rows, for the truth's tasks; on the disk until they are looked at.

    Args:
        tasks: of the run, where they are not those of the truth: its columns are chosen by name, and copied.

    Raises:
        SeqmtlError: the file is missing or damaged, or its rows or columns are not those of the truth.
    """
    path = run.path / "test_logits.npy"
    again = "the command that made this run tests it again"
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SeqmtlError(f"{path} is missing; {again}") from None
    except (OSError, ValueError, EOFError) as e:
        raise SeqmtlError(f"{path} is damaged ({str(e).splitlines()[0] if str(e) else type(e).__name__}); {again}") from None
    names = tuple(truth.tasks if tasks is None else tasks)
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.ndim != 2:
        raise SeqmtlError(f"{path} is no float32 table of rows and tasks; {again}")
    if found.shape != (len(truth), len(names)):
        raise SeqmtlError(
            f"{path} has {found.shape[0]:,} rows and {found.shape[1]} tasks, but the test split has {len(truth):,} rows and the run"
            f" {len(names)} tasks ({', '.join(names)}); were the data prepared anew since? {again[0].upper()}{again[1:]}"
        )
    if names == truth.tasks:
        return found
    lacking = [task for task in truth.tasks if task not in names]
    if lacking:
        raise SeqmtlError(f"{run.path} has not predicted {', '.join(lacking)}; it has {', '.join(names)}")
    return np.ascontiguousarray(found[:, [names.index(task) for task in truth.tasks]])


def oracle(directory: Path, truth: Truth) -> NDArray[np.float64] | None:
    """The true probabilities (N,T) of a simulated dataset's test rows, joined by `_row`; None where there are none.

    Raises:
        SeqmtlError: the file is damaged, or lacks a task or a row.
    """
    path = directory / ORACLE
    if not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["_row", *truth.tasks])
        if table.num_columns != len(truth.tasks) + 1:
            raise ValueError(f"it must have the columns _row, {', '.join(truth.tasks)}")
        numbers = table.column("_row").to_numpy()
        place = slice(None) if np.array_equal(numbers, truth.rows) else _places(numbers, truth.rows)
        found = np.empty((len(truth), len(truth.tasks)))
        for t, task in enumerate(truth.tasks):
            found[:, t] = table.column(task).to_numpy()[place]
        if not ((found >= 0) & (found <= 1)).all():
            raise ValueError("a probability is not within 0 and 1")
    except (pa.ArrowException, OSError, ValueError) as e:
        raise SeqmtlError(f"{path} is damaged or of other rows ({str(e).splitlines()[0]}); {prepare_again(directory)}") from None
    return found


def oracle_metrics(directory: Path, meta: Meta, tasks: Sequence[str]) -> dict[str, float | None] | None:
    """Test metrics of the true probabilities of a simulated dataset, as a run's metrics.json names them; None where there are none.

    No model can do better on average: what is missing to them is noise of the simulator, not skill.

    Raises:
        SeqmtlError: as `oracle`, but for a task that the file has not, of which there is no truth.
    """
    path = directory / ORACLE
    if not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from seqmtl.metrics import TaskMetrics

    with contextlib.suppress(pa.ArrowException, OSError):  # a damaged one is told below
        if not set(tasks) <= set(pq.read_schema(path).names):
            return None
    truth = labels(directory, meta, tasks, None)
    p = oracle(directory, truth)
    metrics = TaskMetrics(meta.schema().keep(tasks), len(truth))
    metrics.update(torch.tensor(p).logit().float(), torch.tensor(truth.y))
    return {f"test/{name}": value for name, value in metrics.compute().items()}


def _places(numbers: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted number stands."""
    order = np.argsort(numbers, kind="stable")
    at = np.searchsorted(numbers, wanted, sorter=order)
    place: NDArray[np.int64] = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(wanted), np.int64)
    if not len(numbers) or not np.array_equal(numbers[place], wanted):
        raise ValueError("rows are missing")
    return place


def reliability(logits: NDArray[np.float32], y: NDArray[np.int8], bins: int = 10) -> list[list[float]]:
    """[[mean prediction, observed rate, rows], …] of one task, by quantiles of the prediction, in rising order.

    Rows of equal prediction stay together, so there may be fewer bins, of unequal size; none where a logit is no number.

    Shapes: logits (N,) · y (N,).
    """
    if not len(logits) or np.isnan(logits).any():
        return []
    edges = np.unique(np.quantile(logits, np.arange(1, bins) / bins, method="higher"))
    sums = np.zeros((3, len(edges) + 1))
    for start in range(0, len(logits), BLOCK):
        some, happened = np.asarray(logits[start : start + BLOCK], np.float64), y[start : start + BLOCK]
        which = np.searchsorted(edges, some, side="right")
        for i, values in enumerate((probability(some), happened, None)):
            sums[i] += np.bincount(which, values, len(edges) + 1)
    predicted, observed, rows = sums[:, sums[2] > 0]
    return [[float(p), float(o), float(n)] for p, o, n in zip(predicted / rows, observed / rows, rows, strict=True)]


def probability(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 / (1 + exp(-logit)) without overflow."""
    small = np.exp(-np.abs(logits, dtype=np.float64))
    return np.where(logits >= 0, 1.0, small) / (1 + small)
