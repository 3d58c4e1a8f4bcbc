"""What every test of this package answers, and how it takes rows: scores by seed, labels, users.

Unusual: what cannot be tested is no error. It has no p and no interval, and `note` says why, so that a table of forty
comparisons is still made. An error is what the caller did wrong, or a model whose scores are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqmtl.errors import SeqmtlError

Scores = Sequence[npt.NDArray[np.floating]] | npt.NDArray[np.floating]
"""Log-odds of the same rows from several seeds: (S,N), or S arrays of (N,)."""
NORMAL_975 = 1.959963984540054
"""97.5 % of the standard normal distribution: half the width of a 95 % interval in standard errors."""

_ONE_USER = "all rows are of one user"


@dataclass(frozen=True)
class Difference:
    """How much one model is above another one, and how sure that is.

    Args:
        value: of the first less of the second; NaN where the metric is undefined.
        interval: 95 %, of the difference; None where there is no p.
        p: two-sided, of "there is no difference"; None where it cannot be had.
        method: in words, "DeLong, 10,000 rows".
        note: why there is no p, or what is to be known of it.
    """

    value: float
    interval: tuple[float, float] | None
    p: float | None
    method: str
    note: str = ""


@dataclass(frozen=True)
class Users:
    """What is drawn independently: users with all their rows, or (`of` is None) single rows.

    Args:
        count: of users or rows, I.
        of: (N,) number of the row's user, 0 ≤ of < I, none of them without rows.
    """

    count: int
    of: npt.NDArray[np.integer] | None = None

    @property
    def words(self) -> str:
        return f"{self.count:,} {'rows' if self.of is None else 'users'}"

    def key(self) -> npt.NDArray[np.integer]:
        """(N,) user of each row; rows are their own users where `of` is None."""
        return np.arange(self.count) if self.of is None else self.of


def users(clusters: npt.ArrayLike | None, rows: int) -> Users:
    """The users of (N,) integer ids of any size, or single rows for None.

    Errors: ValueError for another length, or ids that are no integers.
    """
    if clusters is None:
        return Users(rows)
    ids = np.asarray(clusters)
    if ids.shape != (rows,) or not (np.issubdtype(ids.dtype, np.integer) or not rows):
        raise ValueError(f"clusters are {ids.dtype} of shape {ids.shape}; one integer for each of {rows:,} rows is needed")
    # Ids of a dataset are nearly dense: then a table replaces the sort.
    if rows and ids.min() >= 0 and ids.max() < 4 * rows + 1024:
        ids = ids.astype(np.int64, copy=False)  # bincount refuses uint64
        present = np.bincount(ids) > 0
        number = np.cumsum(present) - 1
        return Users(int(number[-1]) + 1, ids if present.all() else number[ids])
    unique, of = np.unique(ids, return_inverse=True)
    return Users(len(unique), of)


def positives(y: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(N,) labels of 0 and 1 → (N,) True for 1. Errors: ValueError for any other value or shape."""
    labels = np.asarray(y)
    positive = labels == 1
    if labels.ndim != 1 or not (positive | (labels == 0)).all():
        raise ValueError("labels are one row of 0 and 1")
    return positive


def checked(scores: npt.ArrayLike, rows: int) -> npt.NDArray[np.floating]:
    """One seed's scores (N,), as they are.

    Errors: SeqmtlError for NaN, which has no rank; ValueError for another number of rows, or for what are no floats.
    """
    array = np.asarray(scores)
    if array.shape != (rows,) or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"scores are {array.dtype} of shape {array.shape}; a float for each of {rows:,} rows is needed")
    nans = int(np.isnan(array).sum())
    if nans:
        raise SeqmtlError(f"{nans:,} of {rows:,} scores are NaN, so they cannot be compared: the model diverged")
    return array


def several(*models: Scores) -> None:
    """Errors: ValueError for a model without seeds, or for one array (N,) in place of an array per seed."""
    for scores in models:
        if not len(scores) or np.ndim(scores[0]) != 1:
            raise ValueError("scores are a sequence of arrays (N,), one for each seed, at least one")


def normal(value: float, variance: float, method: str, units: Users) -> Difference:
    """Test and interval by the normal approximation. No variance and no difference: p = 1, as for a model and itself."""
    if units.count < 2:
        return untested(value, method, _ONE_USER if units.of is not None else "there are fewer than two rows")
    if not math.isfinite(variance):
        return untested(value, method, "the difference has no variance: a loss is infinite")
    if variance <= 0:
        if value == 0:
            return Difference(0.0, (0.0, 0.0), 1.0, method)
        return untested(value, method, "the difference does not vary over the rows")
    error = math.sqrt(variance)
    half = NORMAL_975 * error
    return Difference(value, (value - half, value + half), math.erfc(abs(value) / error / math.sqrt(2)), method)


def untested(value: float, method: str, note: str) -> Difference:
    """A difference without test, and why."""
    return Difference(value, None, None, method, note)
