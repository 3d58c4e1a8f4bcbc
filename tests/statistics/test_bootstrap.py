"""The bootstrap against resampling rows in earnest, and what must not change it. Coverage: test_simulated_models.py."""

from __future__ import annotations

import math

import binormal_cases as simulated
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import log_loss, roc_auc_score

from seqmtl.errors import SeqmtlError
from seqmtl.statistics import bootstrap as module
from seqmtl.statistics.auc import delong
from seqmtl.statistics.bootstrap import bootstrap, interval
from seqmtl.statistics.logloss import logloss_difference

pytestmark = pytest.mark.filterwarnings("error")
METRICS = pytest.mark.parametrize("metric", ["auc", "logloss"])


def score(metric: str, z: np.ndarray, y: np.ndarray) -> float:
    return roc_auc_score(y, z) if metric == "auc" else log_loss(y, 1 / (1 + np.exp(-z.astype(np.float64))))


@METRICS
@pytest.mark.parametrize("clustered", [False, True])
def test_it_is_what_copying_the_rows_of_the_users_drawn_gives(metric: str, clustered: bool) -> None:
    split = simulated.of_users(np.random.default_rng(0), 25, 1.0, 0.7)
    a, b = np.concatenate([split.a, split.a + split.b]).round(1), split.b.round(1)
    user = split.user if clustered else np.arange(len(split.y))
    rng, draws = np.random.default_rng(5), []
    for _ in range(25):
        drawn = rng.integers(user.max() + 1, size=user.max() + 1)
        rows = np.concatenate([np.flatnonzero(user == each) for each in drawn])
        means = [np.mean([score(metric, z[rows], split.y[rows]) for z in model]) for model in (a, b)]
        draws.append(means[0] - means[1])
    found = bootstrap(a, b, split.y, metric, split.user if clustered else None, repeats=25, seed=5)
    assert found.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1e-12)
    assert found.p == pytest.approx(2 * (1 + min(np.sum(np.array(draws) <= 0), np.sum(np.array(draws) >= 0))) / 26)
    apart = np.mean([score(metric, z, split.y) for z in a]) - score(metric, b[0], split.y)
    assert found.value == pytest.approx(apart, abs=1e-12)
    name = {"auc": "AUC", "logloss": "LogLoss"}[metric]
    assert found.method == f"paired bootstrap of {name}, {'25 users' if clustered else f'{len(user)} rows'}, 25 resamples"


@METRICS
def test_its_spread_is_that_of_the_formula(metric: str) -> None:
    split = simulated.of_users(np.random.default_rng(1), 200, 1.0, 0.8)
    formula = (delong if metric == "auc" else logloss_difference)(split.a, split.b, split.y, split.user)
    found = bootstrap(split.a, split.b, split.y, metric, split.user, repeats=2000)
    assert found.value == pytest.approx(formula.value, abs=1e-12)
    assert found.interval is not None
    assert formula.interval is not None
    width = formula.interval[1] - formula.interval[0]
    assert found.interval == pytest.approx(formula.interval, abs=0.1 * width)


@METRICS
def test_memory_bounds_do_not_change_the_draws(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = simulated.of_users(np.random.default_rng(2), 30, 1.0, 0.7)
    at_once = bootstrap(split.a, split.b, split.y, metric, split.user, repeats=50)
    monkeypatch.setattr(module, "_CELLS", 700)
    in_pieces = bootstrap(split.a, split.b, split.y, metric, split.user, repeats=50)
    assert in_pieces.interval == pytest.approx(at_once.interval, rel=1e-12)
    assert in_pieces.p == at_once.p


@METRICS
def test_a_model_against_itself_and_another_seed_of_the_draws(metric: str) -> None:
    split = simulated.of_users(np.random.default_rng(3), 30, 1.0, 0.7)
    a = np.concatenate([split.a, split.b, split.a + split.b])
    for b in (a, a[[2, 0, 1]], np.concatenate([a, a])):
        found = bootstrap(a, b, split.y, metric, split.user, repeats=40)
        assert (found.value, found.p, found.interval) == (0.0, 1.0, (0.0, 0.0))
    first, again, other = (bootstrap(split.a, split.b, split.y, metric, split.user, repeats=40, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.interval != other.interval


def test_p_is_never_below_what_the_resamples_can_show() -> None:
    split = simulated.rows(np.random.default_rng(4), 100, 100, 3.0, 0.0)
    assert bootstrap(split.a, split.b, split.y, "auc", repeats=199).p == 2 / 200
    assert bootstrap(split.b, split.a, split.y, "auc", repeats=199).p == 2 / 200


@METRICS
def test_the_interval_of_one_model(metric: str) -> None:
    split = simulated.rows(np.random.default_rng(5), 200, 300, 1.0, 0.0)
    value, found = interval(split.a, split.y, metric, repeats=500)
    assert value == pytest.approx(score(metric, split.a[0], split.y), abs=1e-12)
    assert found is not None
    assert found[0] < value < found[1]
    if metric == "auc":
        half = norm.ppf(0.975) * math.sqrt(simulated.true_variance(1.0, 200, 300))
        assert found[1] - found[0] == pytest.approx(2 * half, rel=0.15)
    seeds = np.concatenate([split.a, split.b])
    mean = (value + score(metric, split.b[0], split.y)) / 2
    assert interval(seeds, split.y, metric, repeats=10)[0] == pytest.approx(mean, abs=1e-12)


def test_resamples_of_one_class_are_left_out_and_counted() -> None:
    a, b = np.array([[3, 1, 2, 0, 1, 2]], np.float32), np.array([[0, 1, 3, 2, 0, 1]], np.float32)
    found = bootstrap(a, b, [1, 0, 0, 0, 0, 0], "auc", repeats=400)
    lost = int(found.note.split(" of ")[0])
    assert lost / 400 == pytest.approx((5 / 6) ** 6, abs=0.08)  # the positive row was not drawn
    assert found.interval is not None
    few = bootstrap(a, b, [1, 0, 0, 0, 0, 0], "auc", clusters=[1, 2, 2, 2, 2, 2], repeats=400)
    assert few.note.endswith("have one class only")  # half of the two users' resamples are of one user
    assert bootstrap(a, b, [1, 0, 0, 0, 0, 0], "logloss", repeats=400).note == ""


@METRICS
def test_what_cannot_be_tested_has_no_p_and_says_why(metric: str) -> None:
    a, b = np.array([[0.0, 1.0, 2.0]], np.float32), np.zeros((1, 3), np.float32)
    found = [bootstrap(a, b, [0, 1, 1], metric, [4, 4, 4], repeats=5), bootstrap(a[:, :0], b[:, :0], [], metric, repeats=5)]
    if metric == "auc":
        found += [bootstrap(a, b, [0, 0, 0], metric, repeats=5)]
    else:
        found += [bootstrap(a + math.inf, other, [0, 1, 1], metric, repeats=5) for other in (b, b + math.inf)]
    for each in found:
        assert each.p is None
        assert each.interval is None
        assert each.note
    assert found[0].value == pytest.approx(score(metric, a[0], np.array([0, 1, 1])) - score(metric, b[0], np.array([0, 1, 1])))
    assert interval(a, [0, 1, 1], metric, [4, 4, 4])[1] is None
    with pytest.raises(SeqmtlError, match="NaN"):
        bootstrap(a * math.nan, b, [0, 1, 1], metric)
    with pytest.raises(ValueError, match="repeats"):
        bootstrap(a, b, [0, 1, 1], metric, repeats=0)


def test_another_metric_is_refused() -> None:
    z = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="'gauc'; there are auc and logloss"):
        bootstrap(z, z, [0, 1], "gauc")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_monotone_maps_order_of_rows_and_sides_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = simulated.of_users(rng, 12, 1.0, 0.5, mean_rows=4)
    a, b = split.a.round(1), split.b.round(1)
    found = bootstrap(a, b, split.y, "auc", split.user, repeats=30)
    assert bootstrap(np.exp(a), 3 * b + 1, split.y, "auc", split.user, repeats=30) == found
    turned = bootstrap(b, a, split.y, "auc", split.user, repeats=30)
    assert turned.p == found.p
    if found.interval is not None:
        assert turned.interval is not None
        assert (-turned.interval[1], -turned.interval[0]) == pytest.approx(found.interval, abs=1e-12)
    order = rng.permutation(len(split.y))
    moved = bootstrap(a[:, order], b[:, order], split.y[order], "auc", split.user[order], repeats=30)
    assert moved.value == pytest.approx(found.value, abs=1e-12, nan_ok=True)
    assert moved.p == found.p
