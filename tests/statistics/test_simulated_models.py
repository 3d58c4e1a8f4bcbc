"""Do the tests hold what they say? Intervals cover, p is uniform without a difference, a true one is found as often as it should.

Bounds: 95 % intervals must cover 93 to 97 % of the time. With 2,000 repetitions a share of 0.95 has a standard error of 0.005.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import binormal_cases as simulated
import numpy as np
import pytest
from scipy.stats import kstest, norm

from seqmtl.statistics.auc import auc_interval, delong
from seqmtl.statistics.bootstrap import bootstrap, interval
from seqmtl.statistics.difference import Difference
from seqmtl.statistics.logloss import logloss_difference


def covers(found: tuple[float, float] | None, truth: float) -> bool:
    assert found is not None
    return found[0] <= truth <= found[1]


def p_of(found: Difference) -> float:
    assert found.p is not None
    return found.p


@pytest.mark.parametrize(("mu_a", "mu_b", "shared"), [(1.0, 1.0, 0.0), (1.3, 1.0, 0.7), (0.4, 1.5, 0.4)])
def test_delongs_interval_covers(mu_a: float, mu_b: float, shared: float) -> None:
    rng = np.random.default_rng(0)
    truth = simulated.true_auc(mu_a) - simulated.true_auc(mu_b)
    splits = (simulated.rows(rng, 60, 140, mu_a, mu_b, shared) for _ in range(2000))
    assert 0.93 < np.mean([covers(delong(s.a, s.b, s.y).interval, truth) for s in splits]) < 0.97


def test_the_interval_of_one_model_covers() -> None:
    rng = np.random.default_rng(1)
    splits = (simulated.rows(rng, 60, 140, 1.0, 0.0) for _ in range(2000))
    assert 0.93 < np.mean([covers(auc_interval(s.a, s.y)[1], simulated.true_auc(1.0)) for s in splits]) < 0.97


def test_rows_of_users_need_obuchowski() -> None:
    """Where rows of a user go together the plain interval is far too narrow; that of users covers."""
    rng = np.random.default_rng(2)
    truth = simulated.true_auc(1.0) - simulated.true_auc(0.7)
    splits = [simulated.of_users(rng, 100, 1.0, 0.7) for _ in range(1000)]
    assert 0.93 < np.mean([covers(delong(s.a, s.b, s.y, s.user).interval, truth) for s in splits]) < 0.97
    assert np.mean([covers(delong(s.a, s.b, s.y).interval, truth) for s in splits]) < 0.85


def calibrated(rng: np.random.Generator, users: int, rows: int) -> simulated.Split:
    """b knows the true log-odds z, a adds noise N(0,1), half of it the user's own."""
    user = np.repeat(np.arange(users), rows)
    z = rng.normal(-1, 1.5, len(user))
    y = (rng.random(len(z)) < 1 / (1 + np.exp(-z))).astype(np.int8)
    noise = (rng.normal(size=users)[user] + rng.normal(size=len(z))) / math.sqrt(2)
    return simulated.Split((z + noise)[None].astype(np.float32), z[None].astype(np.float32), y, user)


def true_regret() -> float:
    """Expected LogLoss of `calibrated`'s a less b's: E softplus(z + e) - σ(z)(z + e), less the same at e = 0."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z, e, w = -1 + 1.5 * nodes[:, None], nodes, weights[:, None] * weights / (2 * math.pi)
    # The linear term has mean 0 in e.
    return float((w * (np.logaddexp(0, z + e) - np.logaddexp(0, z))).sum())


def test_the_interval_of_logloss_covers() -> None:
    rng = np.random.default_rng(3)
    truth = true_regret()
    splits = [calibrated(rng, 120, 5) for _ in range(1000)]
    found = [logloss_difference(s.a, s.b, s.y, s.user) for s in splits]
    assert np.mean([each.value for each in found]) == pytest.approx(truth, rel=0.02)
    assert 0.93 < np.mean([covers(each.interval, truth) for each in found]) < 0.97
    alone = [calibrated(rng, 400, 1) for _ in range(1000)]
    assert 0.93 < np.mean([covers(logloss_difference(s.a, s.b, s.y).interval, truth) for s in alone]) < 0.97


@pytest.mark.slow
def test_the_bootstraps_interval_covers() -> None:
    rng = np.random.default_rng(4)
    truth = simulated.true_auc(1.3) - simulated.true_auc(1.0)
    splits = [simulated.rows(rng, 60, 140, 1.3, 1.0, 0.5) for _ in range(1000)]
    assert 0.93 < np.mean([covers(bootstrap(s.a, s.b, s.y, "auc", repeats=400).interval, truth) for s in splits]) < 0.97
    assert 0.93 < np.mean([covers(interval(s.a, s.y, "auc", repeats=400)[1], simulated.true_auc(1.3)) for s in splits]) < 0.97


@pytest.mark.slow
def test_the_bootstraps_interval_over_users_covers() -> None:
    rng = np.random.default_rng(5)
    truth = simulated.true_auc(1.0) - simulated.true_auc(0.7)
    splits = [simulated.of_users(rng, 100, 1.0, 0.7) for _ in range(1000)]
    assert 0.93 < np.mean([covers(bootstrap(s.a, s.b, s.y, "auc", s.user, repeats=400).interval, truth) for s in splits]) < 0.97
    regret, losses = true_regret(), [calibrated(rng, 150, 4) for _ in range(1000)]
    found = [bootstrap(s.a, s.b, s.y, "logloss", s.user, repeats=400).interval for s in losses]
    assert 0.93 < np.mean([covers(each, regret) for each in found]) < 0.97


def by_rows(s: simulated.Split) -> Difference:
    return delong(s.a, s.b, s.y)


def by_users(s: simulated.Split) -> Difference:
    return delong(s.a, s.b, s.y, s.user)


def by_loss(s: simulated.Split) -> Difference:
    return logloss_difference(s.a, s.b, s.y, s.user)


def resampled(s: simulated.Split) -> Difference:
    return bootstrap(s.a, s.b, s.y, "auc", s.user, repeats=500)


@pytest.mark.parametrize(
    ("test", "users"), [(by_rows, 0), (by_users, 100), (by_loss, 100), pytest.param(resampled, 100, marks=pytest.mark.slow)]
)
def test_p_is_uniform_for_models_of_the_same_quality(test: Callable[[simulated.Split], Difference], users: int) -> None:
    rng = np.random.default_rng(6)
    p = []
    for _ in range(500):
        split = simulated.of_users(rng, users, 1.0, 1.0) if users else simulated.rows(rng, 100, 200, 1.0, 1.0, shared=0.5)
        p.append(p_of(test(split)))
    assert kstest(p, "uniform").pvalue > 0.01


def test_p_of_rows_is_not_uniform_where_they_are_not_independent() -> None:
    """The check above can fail."""
    rng = np.random.default_rng(7)
    p = [p_of(by_rows(simulated.of_users(rng, 100, 1.0, 1.0))) for _ in range(300)]
    assert kstest(p, "uniform").pvalue < 1e-6


@pytest.mark.parametrize("advantage", [0.1, 0.2, 0.3])
def test_a_planted_advantage_is_found_as_often_as_it_should(advantage: float) -> None:
    """Models with independent noise: the variance of the difference is the sum of two known ones."""
    rng, (positives, negatives) = np.random.default_rng(8), (300, 500)
    difference = simulated.true_auc(1.0 + advantage) - simulated.true_auc(1.0)
    variances = [simulated.true_variance(mu, positives, negatives) for mu in (1.0 + advantage, 1.0)]
    z = difference / math.sqrt(sum(variances))
    power = norm.sf(norm.ppf(0.975) - z) + norm.cdf(-norm.ppf(0.975) - z)
    found = [by_rows(simulated.rows(rng, positives, negatives, 1.0 + advantage, 1.0)) for _ in range(1000)]
    error = math.sqrt(power * (1 - power) / len(found))
    assert np.mean([p_of(each) < 0.05 for each in found]) == pytest.approx(power, abs=3 * error + 0.01)
    assert np.mean([each.value for each in found]) == pytest.approx(difference, abs=3 * math.sqrt(sum(variances) / len(found)))


def test_more_seeds_take_out_their_noise_and_leave_that_of_the_rows() -> None:
    """The mean of four seeds with independent noise: narrower than one seed, by what their V have in common."""
    rng = np.random.default_rng(9)
    y = np.repeat([1, 0], [200, 400]).astype(np.int8)
    widths: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(30):
        common = rng.normal(size=(2, 600))
        a, b = (common[i] + y + rng.normal(size=(4, 600)) for i in (0, 1))
        for seeds, found in widths.items():
            low, high = delong(a[:seeds], b[:seeds], y).interval or (math.nan, math.nan)
            found.append(high - low)
    assert 0.5 < np.mean(widths[4]) / np.mean(widths[1]) < 0.9
