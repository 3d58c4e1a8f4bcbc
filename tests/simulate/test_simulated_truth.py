"""The mathematics of the simulators, and the finance log's truth: chain, drift, a model that reaches it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from seqmtl.simulate import finance
from seqmtl.simulate.population import draw, numbers, spread, zipf
from seqmtl.simulate.raw_files import START, clock
from seqmtl.simulate.truth import Funnel, Tally, Weights, alike, directions, intercept, sigmoid, strength, turned

CHAIN, TREE = (None, 0, 1, 2), (None, 0, 0, 2)


@pytest.mark.parametrize("rate", [0.0001, 0.02, 0.5, 0.97])
def test_intercept_gives_the_rate(rate: float) -> None:
    rng = np.random.default_rng(0)
    signal, weight = 2 * rng.standard_normal(20_000), rng.random(20_000)
    wanted = rate * weight.mean()
    assert (weight * sigmoid(intercept(signal, weight, wanted) + signal)).mean() == pytest.approx(wanted, rel=1e-9)


def test_strength_gives_the_auc() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal(20_000)
    s = strength(signal, 0.1, 0.75)
    p = sigmoid(intercept(s * signal, np.ones(20_000), 0.1) + s * signal)
    many = [roc_auc_score(rng.random(20_000) < p, p) for _ in range(10)]
    assert np.mean(many) == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize("make", [directions, alike])
@pytest.mark.parametrize("relatedness", [-1.0, 0.0, 0.3, 1.0])
def test_directions_have_the_relatedness(make: type, relatedness: float) -> None:
    theta = make(np.random.default_rng(0), TREE, 4, relatedness)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 1)
    for t, parent in enumerate(TREE):
        if parent is not None:
            assert theta[t] @ theta[parent] == pytest.approx(relatedness, abs=1e-12)
    assert theta[1] @ theta[2] == pytest.approx(relatedness**2, abs=1e-12)
    if make is alike:
        np.testing.assert_allclose(theta[0], 0.5)


@pytest.mark.parametrize("drift", [0.0, 0.1, 1.0, 2.0])
def test_weights_turn_by_the_drift_and_stay_related(drift: float) -> None:
    weights = Weights({"x": directions(np.random.default_rng(0), CHAIN, 4, 0.3)}, drift)
    first, last = (weights.signal({"x": np.eye(4)}, time).T for time in (0.0, 1.0))
    np.testing.assert_allclose((first * last).sum(axis=1), 1 - drift, atol=1e-12)
    np.testing.assert_allclose(last @ last.T, first @ first.T, atol=1e-12)
    each = weights.signal({"x": np.eye(4)}, np.array([0.0, 0.0, 1.0, 1.0])).T
    np.testing.assert_allclose(each[:, :2], first[:, :2])
    np.testing.assert_allclose(each[:, 2:], last[:, 2:], atol=1e-12)
    np.testing.assert_allclose(turned(turned(first)), -first)


@pytest.mark.parametrize(("parents", "stray"), [(CHAIN, 0.0), (TREE, 0.0), ((None, 0, 0, 0), 0.03)])
def test_a_funnel_happens_as_often_as_it_says(parents: tuple[int | None, ...], stray: float) -> None:
    rng = np.random.default_rng(0)
    rates = (0.4, 0.2, 0.15, 0.1)
    signal = rng.standard_normal((50_000, 4))
    funnel = Funnel(parents, rates, stray)
    funnel.solve(signal)
    p = funnel.probabilities(signal)
    np.testing.assert_allclose(p.mean(axis=0), rates, rtol=1e-6)
    happens = funnel.draw(signal, rng.random(signal.shape))
    z = (happens.sum(axis=0) - p.sum(axis=0)) / np.sqrt((p * (1 - p)).sum(axis=0))
    assert np.abs(z).max() < 3
    for t, parent in enumerate(parents):
        if parent is not None:
            assert (~happens[happens[:, t], parent]).mean() == pytest.approx(stray, abs=0.01)


def test_a_correction_brings_the_rates_to_other_rows() -> None:
    rng = np.random.default_rng(0)
    rates = (0.4, 0.2, 0.15, 0.1)
    funnel = Funnel(TREE, rates)
    funnel.solve(rng.standard_normal((1000, 4)))
    signal = 0.2 + 1.1 * rng.standard_normal((20_000, 4))
    missed = []
    for _ in range(4):
        tally = Tally(TREE)
        for part in np.split(signal, 4):
            tally.add(funnel.probabilities(part))
        missed.append(funnel.missed(tally))
        funnel.correct(tally, 1)
    assert missed[0] > 3
    assert missed[1] < missed[0] / 5
    assert missed[-1] < 0.01
    np.testing.assert_allclose(funnel.probabilities(signal).mean(axis=0), rates, rtol=1e-6)


def test_the_population() -> None:
    weight = zipf(50, 0.8)
    assert weight.sum() == pytest.approx(1)
    for way in spread(20_000, 5):
        share = np.bincount(draw(weight, way), minlength=50) / 20_000
        np.testing.assert_allclose(share, weight, atol=6e-4)  # a tenth of what chance would do
    for size in (1, 10, 7919, 20_000):
        assert np.array_equal(np.sort(numbers(np.arange(size), size)), np.arange(size))
    assert draw(np.array([1.0, 0.0]), np.array([0.0, 0.999999])).tolist() == [0, 0]


def test_the_clock_is_the_same_however_it_is_cut() -> None:
    whole = clock(0, 1000, 1000)
    for of, first, second in zip(whole, clock(0, 400, 1000), clock(400, 600, 1000), strict=True):
        np.testing.assert_array_equal(of, np.concatenate([first, second]))
    assert whole[0][0] == START
    assert (whole[2][0], whole[2][-1]) == (0, 1)


def world_of(raw: Path, rows: int, drift: float) -> tuple[finance.World, pl.DataFrame]:
    finance.simulate(raw, rows=rows, drift=drift)
    options = finance.Options(rows, 0.5, 0.75, 0.5, 0.1, 0.8, 20, 1000, drift, 0)
    return finance.World(options, list(finance.RATES["default"].values())), pl.read_parquet(raw / "log-00000.parquet")


def test_a_model_of_the_truth_s_features_reaches_the_oracle(tmp_path: Path) -> None:
    world, log = world_of(tmp_path, 30_000, 0)
    (played,) = world.play()
    assert np.array_equal(log.select(list(finance.PARENTS)).to_numpy(), played.happens)
    x = np.concatenate(list(world.phi(played.met).values()), axis=1)
    p = pl.read_parquet(tmp_path / "oracle_log.parquet")
    np.testing.assert_array_equal(p.select(list(finance.PARENTS)).to_numpy(), played.probabilities)
    for task in ("click", "application"):
        y = log[task].to_numpy()
        model = LogisticRegression(max_iter=500).fit(x[::2], y[::2])
        reached = roc_auc_score(y[1::2], model.decision_function(x[1::2]))
        assert reached == pytest.approx(roc_auc_score(y[1::2], p[task].to_numpy()[1::2]), abs=0.015)


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_what_was_true_at_first_is_worth_less_later(tmp_path: Path, drift: float) -> None:
    world, log = world_of(tmp_path, 30_000, drift)
    (played,) = world.play()
    first = world.weights.signal(world.phi(played.met), 0.0)[:, 0]
    y = log["click"].to_numpy()
    at_start, at_end = (roc_auc_score(y[part], first[part]) for part in (slice(None, 3000), slice(-3000, None)))
    assert at_start == pytest.approx(0.75, abs=0.03)
    assert at_end == pytest.approx(0.75 if drift == 0 else 0.5, abs=0.04)
    assert roc_auc_score(y[-3000:], played.probabilities[-3000:, 0]) == pytest.approx(0.75, abs=0.03)
