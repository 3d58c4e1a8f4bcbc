"""The papers' own test: a paired samples t-test over seeds (AITM and APEM, under their tables).

What varies here is the training, on one test set: the reverse of DeLong and the bootstrap. The pair is the seed, which
makes it a fair pair only where both models take something from it (order of rows, split); otherwise it costs power only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from seqmtl.statistics.difference import Difference, untested

FEWEST = 3
"""Fewer seeds than that and there is no test: two differences leave one degree of freedom."""
_ROUNDING = 1e-12  # of the values: a difference that varies less is constant


def paired_t(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> Difference:
    """Mean of a - b over the seeds that have a value in both, with a two-sided paired t-test.

    Args:
        a, b: value of the metric by seed; None or NaN is no value.

    Returns:
        p and interval from the t distribution with n - 1 degrees of freedom. Without p: fewer than three common seeds
        (without any, the value is NaN too), infinite values, or a difference other than 0 that is the same in all
        seeds: it has no variance, so t has no scale (LightGBM without sampling gives the same in every seed).
    """
    common = sorted(seed for seed in a.keys() & b.keys() if _defined(a[seed]) and _defined(b[seed]))
    method = f"paired t-test over {len(common)} seed{'' if len(common) == 1 else 's'}"
    if not common:
        return untested(math.nan, method, "no seed has a value in both")
    first, second = (np.array([values[seed] for seed in common], np.float64) for values in (a, b))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        with np.errstate(invalid="ignore"):
            return untested(float((first - second).mean()), method, "a value is infinite")
    apart = first - second
    value = float(apart.mean())
    if len(common) < FEWEST:
        return untested(value, method, f"{len(common)} common seed{'' if len(common) == 1 else 's'}; {FEWEST} are needed")
    rounding = _ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(apart) <= rounding:
        if np.abs(apart).max() <= rounding:
            return Difference(0.0, (0.0, 0.0), 1.0, method)
        return untested(value, method, "the difference is the same in all seeds")
    from scipy.stats import ttest_rel

    test = ttest_rel(first, second)
    low, high = test.confidence_interval(0.95)
    return Difference(value, (float(low), float(high)), float(test.pvalue), method)


def _defined(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
