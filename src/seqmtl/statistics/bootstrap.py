"""Paired bootstrap over users: other test sets are made of the users at hand, drawn with replacement.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: a resample weighs each user by how often it was
drawn, both models see the same resample, and the interval is between the 2.5 % and the 97.5 % quantile of the metric.

Unusual: nothing is sorted again. The negatives fall into bins between (or at) the distinct scores of the positives, once;
what is left of a score column is how many rows each user has in each bin, a sparse matrix, and a resample's bins are that
matrix times the weights, for many resamples at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from seqmtl.statistics.difference import Difference, Scores, Users, checked, positives, several, untested, users
from seqmtl.statistics.logloss import losses

Metric = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]  # weights of the users (I,R) → (R,)

_CELLS = 2**22  # of the matrix of weights: 32 MB
_ROUNDING = 1e-13  # of the metric: that is no difference


def bootstrap(
    a: Scores,
    b: Scores,
    y: npt.ArrayLike,
    metric: str,
    clusters: npt.ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> Difference:
    """The mean of a metric over a's seeds less the mean over b's, with a percentile interval.

    p is twice the smaller share of resamples on either side of 0, with one added to both counts (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 4.2.1), so it is never below 2/(repeats + 1). Like DeLong's it
    does not cover the variation over seeds.

    Args:
        a, b: log-odds by seed, (S,N) or S arrays of (N,).
        y: (N,) 0 or 1.
        metric: "auc" or "logloss".
        clusters: (N,) integer id of the row's user; None: single rows are drawn.
        repeats: resamples.
        seed: of the draws.

    Returns:
        No p where the metric is undefined or infinite, with one user only, or where more than half of the resamples
        have one class only; fewer such resamples are left out, and the note says how many.

    Errors: SeqmtlError if a score is NaN; ValueError for another metric, no repeats, or shapes that do not fit.
    """
    several(a, b)
    positive, units = _rows(y, clusters, repeats)
    of_a, bins_a = _metric(metric, a, positive, units)
    of_b, bins_b = _metric(metric, b, positive, units)

    def difference(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        first, second = of_a(weights), of_b(weights)
        with np.errstate(invalid="ignore"):  # inf - inf
            apart = first - second
        return np.where(np.abs(apart) <= _ROUNDING * np.abs(second), 0.0, apart)

    value = float(difference(np.ones((units.count, 1)))[0])
    method = f"paired bootstrap of {'AUC' if metric == 'auc' else 'LogLoss'}, {units.words}, {repeats:,} resamples"
    draws, note = _draws(difference, value, units, repeats, seed, max(bins_a, bins_b))
    if draws is None:
        return untested(value, method, note)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(value, _middle(draws), min(1.0, 2 * (beyond + 1) / (len(draws) + 1)), method, note)


def interval(
    scores: Scores,
    y: npt.ArrayLike,
    metric: str,
    clusters: npt.ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[float, tuple[float, float] | None]:
    """The mean of a metric over the seeds of one model, and its 95 % interval; arguments and errors as in `bootstrap`."""
    several(scores)
    positive, units = _rows(y, clusters, repeats)
    of_model, bins = _metric(metric, scores, positive, units)
    value = float(of_model(np.ones((units.count, 1)))[0])
    draws, _ = _draws(of_model, value, units, repeats, seed, bins)
    return value, None if draws is None else _middle(draws)


def _rows(y: npt.ArrayLike, clusters: npt.ArrayLike | None, repeats: int) -> tuple[npt.NDArray[np.bool_], Users]:
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; at least 1 is needed")
    positive = positives(y)
    return positive, users(clusters, len(positive))


def _draws(
    metric: Metric, value: float, units: Users, repeats: int, seed: int, bins: int
) -> tuple[npt.NDArray[np.float64] | None, str]:
    """The metric of each resample that has one, (≤ repeats,), and a note; or None and why there are none."""
    if not math.isfinite(value):
        return None, "undefined: one class only, or an infinite loss"
    if units.count < 2:
        return None, "all rows are of one user"
    draws = np.concatenate([metric(weights) for weights in _resamples(units.count, repeats, seed, bins)])
    draws = draws[~np.isnan(draws)]
    lost = repeats - len(draws)
    note = f"{lost:,} of {repeats:,} resamples have one class only" if lost else ""
    return (None, note) if 2 * lost > repeats else (draws, note)


def _resamples(count: int, repeats: int, seed: int, bins: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each user was drawn, (I,R) for some repeats at a time; the draws do not depend on how many those are."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // max(count, bins))
    for start in range(0, repeats, chunk):
        weights = np.empty((count, min(chunk, repeats - start)))
        for r in range(weights.shape[1]):
            weights[:, r] = np.bincount(rng.integers(count, size=count), minlength=count)
        yield weights


def _middle(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return low, high


def _metric(name: str, scores: Scores, positive: npt.NDArray[np.bool_], units: Users) -> tuple[Metric, int]:
    """The metric of a model as a function of the weights of the users, and how long its vectors are."""
    if name == "logloss":
        return _logloss(scores, positive, units), 1
    if name != "auc":
        raise ValueError(f"there is no bootstrap of '{name}'; there are auc and logloss")
    columns = [_auc(checked(each, len(positive)), positive, units) for each in scores]
    return lambda weights: np.mean([column(weights) for column, _ in columns], axis=0), max(bins for _, bins in columns)


def _logloss(scores: Scores, positive: npt.NDArray[np.bool_], units: Users) -> Metric:
    """Mean loss from the sum and the number of each user's losses."""
    loss, user = losses(scores, positive), units.key()
    total = np.bincount(user, weights=loss, minlength=units.count)
    rows = np.bincount(user, minlength=units.count).astype(np.float64)

    def mean(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # no rows, or 0 · inf
            return (total @ weights) / (rows @ weights)

    return mean


def _auc(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], units: Users) -> tuple[Metric, int]:
    """AUC of one score column, and its number of bins; bin 2k lies below the k-th distinct positive score, 2k + 1 at it."""
    from scipy.sparse import csr_matrix

    user = units.key()
    cuts, at = np.unique(scores[positive], return_inverse=True)
    between = scores[~positive]
    bins = np.searchsorted(cuts, between, "left") + np.searchsorted(cuts, between, "right")
    shape = (2 * len(cuts) + 1, units.count)
    neg = csr_matrix((np.ones(len(bins)), (bins, user[~positive])), shape=shape)
    pos = csr_matrix((np.ones(len(at)), (at, user[positive])), shape=(len(cuts), units.count))

    def area(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        in_bin = neg @ weights  # (bins,R)
        up_to = in_bin.cumsum(0)
        above = pos @ weights  # (cuts,R)
        pairs = above.sum(0) * up_to[-1]
        # Below a cut lies all up to its even bin; of the odd one, which ties, half.
        right = (above * (up_to[:-1:2] + in_bin[1::2] / 2)).sum(0)
        return np.divide(right, pairs, out=np.full_like(pairs, math.nan), where=pairs > 0)

    return area, shape[0]
