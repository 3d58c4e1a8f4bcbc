"""What speaks for one row being better than another: the paper's test over seeds, and one on the test rows.

Unusual: the two answer different questions. A paired t-test over seeds asks whether another training would come out the same way on
these test rows; a test on the rows asks whether these trainings would on other users. Neither includes the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from seqmtl.statistics.auc import delong
from seqmtl.statistics.difference import Difference
from seqmtl.statistics.logloss import logloss_difference
from seqmtl.statistics.multiple import holm
from seqmtl.statistics.seeds import paired_t
from seqmtl.tables.content import Cell, Column, Comparison

Scores = NDArray[np.float32]  # (N,) log-odds of one task
Key = TypeVar("Key", bound=Hashable)
BY_ROWS: Mapping[str, Callable[..., Difference]] = {"auc": delong, "logloss": logloss_difference}  # by metric


@dataclass(frozen=True)
class Evidence:
    """Predictions of the rows of a part, and what happened.

    Args:
        scores: (label, column) → the scores of each finished run, by seed; made when they are asked for, as they may be large.
        y: column → labels (N,).
        clusters: user of each test row (N,), or None.
    """

    scores: Callable[[str, Column], Mapping[int, Scores]]
    y: Callable[[Column], NDArray[np.int8]]
    clusters: NDArray[np.int64] | None

    def on_rows(self, column: Column, label: str, other: str) -> Comparison:
        """`label` against `other` on the test rows, each the mean over its seeds."""
        ours, theirs = self.scores(label, column), self.scores(other, column)
        test = BY_ROWS.get(column.metric)
        if test is None or not ours or not theirs:
            return Comparison(other, None, None, None, None, "", "no predictions to compare")
        return comparison(other, test([*ours.values()], [*theirs.values()], self.y(column), self.clusters))


def over_seeds(cell: Cell, other: Cell, label: str) -> Comparison:
    """A cell against that of row `label`: paired samples t-test over the seeds that both have."""
    return comparison(label, paired_t(cell.values, other.values))


def corrected(found: Mapping[Key, Comparison], family: int) -> dict[Key, Comparison]:
    """The comparisons of a column, by row, or of a metric, by task, with Holm's correction.

    Args:
        family: how many comparisons there were to choose from. Of k rows that are compared with the best one it is k (k - 1) / 2:
            which row is the best is read off the same test rows, so any pair might have been looked at.
    """
    if family < 2:
        return dict(found)
    tested = [one.p for one in found.values()]
    adjusted = holm([*tested, *[1.0] * (family - len(tested))])
    return {label: replace(one, adjusted=p) for (label, one), p in zip(found.items(), adjusted, strict=False)}


def comparison(label: str, found: Difference) -> Comparison:
    """A test's answer, before any correction; `label`: of whom it was compared with."""
    value = found.value if math.isfinite(found.value) else None
    return Comparison(label, value, found.interval, found.p, None, found.method, found.note)
