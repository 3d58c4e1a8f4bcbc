"""The difference of two mean LogLosses on the same rows.

It is a mean of paired differences d, so its test is the t-test of a mean with many rows, and with users of several rows
each the cluster-robust variance: with e = d - mean(d), summed within each of I users,

    var = I/(I - 1) Σ_i (Σ_{j in i} e_ij)² / N²

(Liang and Zeger, Biometrika 1986, https://doi.org/10.1093/biomet/73.1.13, for a mean.)
Losses are nats, from log-odds, never clipped.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from seqmtl.statistics.difference import Difference, Scores, checked, normal, positives, several, untested, users

_ROUNDING = 1e-14  # of the losses: sums over seeds in another order differ by that


def losses(scores: Scores, positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Binary cross-entropy of each row, mean over the seeds: (N,) nats; inf where a log-odds of ±inf is wrong."""
    total = np.zeros(len(positive))
    for each in scores:
        z = checked(each, len(positive)).astype(np.float64)
        np.negative(z, out=z, where=positive)
        total += np.logaddexp(0.0, z)
    return total / len(scores)


def logloss_difference(a: Scores, b: Scores, y: npt.ArrayLike, clusters: npt.ArrayLike | None = None) -> Difference:
    """Mean LogLoss over a's seeds less the mean over b's (below 0: a is better), paired by row.

    As for `auc.delong`, the variance is that of drawing other rows or users, not that over seeds.

    Args:
        a, b: log-odds by seed, (S,N) or S arrays of (N,).
        y: (N,) 0 or 1.
        clusters: (N,) integer id of the row's user; None: rows are independent.

    Returns:
        p and interval by the normal approximation. No p where a loss is infinite, or with one user only.

    Errors: SeqmtlError if a score is NaN; ValueError for shapes that do not fit.
    """
    several(a, b)
    positive = positives(y)
    rows, units = len(positive), users(clusters, len(positive))
    method = f"paired LogLoss, {units.words}"
    if not rows:
        return untested(math.nan, method, "there are no rows")
    d, scale = losses(a, positive), losses(b, positive)
    with np.errstate(invalid="ignore"):  # inf - inf: two infinite losses have no difference
        d -= scale
    d[np.abs(d) <= _ROUNDING * scale] = 0.0
    value = float(d.mean())
    if not math.isfinite(value):
        return normal(value, math.nan, method, units)
    d -= value
    sums = d if units.of is None else np.bincount(units.of, weights=d, minlength=units.count)
    variance = float(sums @ sums) / rows**2 * (units.count / (units.count - 1) if units.count > 1 else math.nan)
    return normal(value, variance, method, units)
