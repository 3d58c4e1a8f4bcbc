"""The difference of two AUCs on the same rows, and its variance over test sets: DeLong, and Obuchowski for users.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), https://doi.org/10.2307/2531595: with V of a positive row the
share of negatives below it, V of a negative row the share of positives above it (ties half), θ = AUC, and m, n rows of
either class,

    var(θ) = Σ_pos (V - θ)² / ((m - 1) m) + Σ_neg (V - θ)² / ((n - 1) n)

V comes from ranks, O(N log N): Sun and Xu, IEEE Signal Processing Letters 21 (2014), https://doi.org/10.1109/LSP.2014.2337313.
Where users have several rows, these are not independent. Obuchowski, Biometrics 53 (1997), https://doi.org/10.2307/2533958,
sums V - θ within each user i, A_i over its positive rows (÷ m) and B_i over its negative ones (÷ n):

    var(θ) = I⁺/(I⁺ - 1) Σ A_i² + I⁻/(I⁻ - 1) Σ B_i² + 2 I/(I - 1) Σ A_i B_i        I⁺, I⁻: users with rows of the class

With a row per user it is DeLong's. θ is linear in V, so V of a difference of models, or of a mean over seeds, is the
difference or mean of their V; no matrix of covariances is needed.

Unusual: V is kept as an integer, twice the pairs that it counts. Sums over rows and seeds are then exact: a model
against itself, or against its ranks, is 0 and not 1e-17, and rows in another order give the same value.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from seqmtl.statistics.difference import Difference, Scores, Users, checked, normal, positives, several, untested, users


def components(scores: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """V of each row: for a positive row the share of negatives below it, for a negative row that of positives above it.

    Args:
        scores: (N,) log-odds, or anything of the same order.
        y: (N,) 0 or 1.

    Returns:
        (N,) float64; its mean over either class is the AUC. NaN where there is one class only.
    """
    positive = positives(y)
    twice = _twice_pairs(checked(scores, len(positive)), positive)
    m = int(positive.sum())
    n = len(positive) - m
    if not m or not n:
        return np.full(len(positive), math.nan)
    return twice / np.where(positive, 2.0 * n, 2.0 * m)


def auc(scores: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Area under the ROC curve, ties half, exact but for the last division; NaN where there is one class only."""
    positive = positives(y)
    return _value(_twice_pairs(checked(scores, len(positive)), positive), positive, 2)


def delong(a: Scores, b: Scores, y: npt.ArrayLike, clusters: npt.ArrayLike | None = None) -> Difference:
    """Mean AUC over a's seeds less the mean over b's, tested on the rows.

    The variance is that of drawing other test rows (or other users) for the models as they were trained. It does not
    cover the variation over seeds: with one seed each, a small p says that these two networks differ, not the methods.

    Args:
        a, b: log-odds by seed, (S,N) or S arrays of (N,); the two may have different numbers of seeds.
        y: (N,) 0 or 1.
        clusters: (N,) integer id of the row's user; None: rows are independent.

    Returns:
        p and interval by the normal approximation. No p with one class only, or with one user of a class.

    Errors: SeqmtlError if a score is NaN; ValueError for shapes that do not fit.

    Memory: about 55 bytes a row at the peak beside the scores themselves; one sort for each seed of each model.
    """
    several(a, b)
    positive = positives(y)
    units = users(clusters, len(positive))
    twice = np.zeros(len(positive), np.int64)
    for scores in a:
        twice += len(b) * _twice_pairs(checked(scores, len(positive)), positive)
    for scores in b:
        twice -= len(a) * _twice_pairs(checked(scores, len(positive)), positive)
    return _tested(twice, positive, 2 * len(a) * len(b), units)


def auc_interval(
    scores: Scores, y: npt.ArrayLike, clusters: npt.ArrayLike | None = None
) -> tuple[float, tuple[float, float] | None]:
    """Mean AUC over the seeds of one model and its 95 % interval over test sets, as in `delong`; cut at 0 and 1."""
    several(scores)
    positive = positives(y)
    twice = np.zeros(len(positive), np.int64)
    for each in scores:
        twice += _twice_pairs(checked(each, len(positive)), positive)
    result = _tested(twice, positive, 2 * len(scores), users(clusters, len(positive)))
    if result.interval is None:
        return result.value, None
    low, high = result.interval
    return result.value, (max(low, 0.0), min(high, 1.0))


def _twice_pairs(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Twice the number of rows of the other class that each row is on the right side of, (N,); a tie counts 1."""
    rows = len(scores)
    if not rows:
        return np.zeros(0, np.int64)
    small = np.int32 if rows < 2**30 else np.int64  # twice a count of rows
    order = np.argsort(scores)
    ranked = scores[order]
    first = np.ones(rows, np.bool_)  # of its group of equal scores
    np.not_equal(ranked[1:], ranked[:-1], out=first[1:])
    del ranked
    start = np.flatnonzero(first).astype(small)
    end = np.append(start[1:], small(rows))
    ordered = positive[order]
    negatives = np.zeros(rows + 1, small)  # before each place
    np.cumsum(~ordered, out=negatives[1:])
    below = negatives[start] + negatives[end]  # twice the negatives below a group, its own half
    above = 2 * (rows - negatives[-1]) - (start + end - below)
    del negatives
    size = end - start
    del start, end, first
    twice = np.empty(rows, np.int64)
    twice[order] = np.where(ordered, np.repeat(below, size), np.repeat(above, size))
    return twice


def _value(twice: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], unit: int) -> float:
    """The statistic from its rows: one pair of rows counts `unit`."""
    m = int(positive.sum())
    pairs = m * (len(positive) - m)
    return int(twice.sum(where=positive)) / (unit * pairs) if pairs else math.nan


def _tested(twice: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], unit: int, units: Users) -> Difference:
    """The statistic with its interval and test against 0."""
    method = f"DeLong, {units.words}" if units.of is None else f"DeLong clustered by user (Obuchowski), {units.words}"
    m = int(positive.sum())
    n = len(positive) - m
    if not m or not n:
        return untested(math.nan, method, "the rows have one class only")
    value, total = _value(twice, positive, unit), int(twice.sum(where=positive))
    # (V - θ) / m of a positive row and (V - θ) / n of a negative one have the same divisor. Both classes sum to `total`.
    v = np.subtract(twice, np.where(positive, total / m, total / n), dtype=np.float64)
    v /= unit * m * n
    if units.of is None:
        v *= v
        m_users, n_users = m, n
        squares_pos, both = float(v.sum(where=positive)), 0.0
        squares_neg = float(v.sum(where=~positive))
    else:
        key = 2 * units.of.astype(np.int64)
        key += positive
        b_sums, a_sums = np.bincount(key, weights=v, minlength=2 * units.count).reshape(-1, 2).T
        n_users, m_users = (np.bincount(key, minlength=2 * units.count).reshape(-1, 2) > 0).sum(0).tolist()
        squares_pos, squares_neg, both = float(a_sums @ a_sums), float(b_sums @ b_sums), float(a_sums @ b_sums)
    if min(m_users, n_users) < 2:
        kind = "positive" if m_users < 2 else "negative"
        return untested(value, method, f"all {kind} rows are of one user" if units.of is not None else f"there is one {kind} row")
    variance = squares_pos * m_users / (m_users - 1) + squares_neg * n_users / (n_users - 1)
    variance += 2 * both * units.count / (units.count - 1)
    return normal(value, variance, method, units)
