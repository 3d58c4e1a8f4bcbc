"""The test of two mean LogLosses against statsmodels' regression on a constant, plain and clustered."""

from __future__ import annotations

import math

import binormal_cases as simulated
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from seqmtl.errors import SeqmtlError
from seqmtl.statistics.logloss import logloss_difference

pytestmark = pytest.mark.filterwarnings("error")


def losses(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean over seeds of -log σ(±z), by another formula than the one under test."""
    p = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return -np.log(np.where(y == 1, p, 1 - p)).mean(0)


@pytest.mark.parametrize("clustered", [False, True])
def test_it_is_statsmodels_regression_on_a_constant(clustered: bool) -> None:
    split = simulated.of_users(np.random.default_rng(0), 50, 1.0, 0.7)
    a = np.concatenate([split.a, split.a * 1.1])
    d = losses(a, split.y) - losses(split.b, split.y)
    model = sm.OLS(d, np.ones(len(d)))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": split.user}) if clustered else model.fit(use_t=False)
    found = logloss_difference(a, split.b, split.y, split.user if clustered else None)
    assert found.value == pytest.approx(fit.params[0], rel=1e-9)
    assert found.p == pytest.approx(fit.pvalues[0], rel=1e-6)
    assert found.interval == pytest.approx(fit.conf_int()[0], rel=1e-6)
    assert found.method == f"paired LogLoss, {'50 users' if clustered else f'{len(d)} rows'}"


def test_the_value_is_the_difference_of_scikit_learns_losses() -> None:
    split = simulated.rows(np.random.default_rng(1), 40, 60, 1.0, 0.5)
    ours = logloss_difference(split.a, split.b, split.y).value
    first, second = (log_loss(split.y, 1 / (1 + np.exp(-z[0].astype(np.float64)))) for z in (split.a, split.b))
    assert ours == pytest.approx(first - second, abs=1e-12)


def test_a_model_against_itself_and_seeds_in_another_order() -> None:
    rng = np.random.default_rng(2)
    y, a = (rng.random(200) < 0.3).astype(np.int8), rng.normal(size=(3, 200)).astype(np.float32)
    for b in (a, a[[2, 0, 1]], np.concatenate([a, a])):
        found = logloss_difference(a, b, y, np.arange(200) // 2)
        assert (found.value, found.p, found.interval) == (0.0, 1.0, (0.0, 0.0))


def test_the_smallest_real_difference_of_float32_is_not_rounded_away() -> None:
    z = np.full((1, 100), 5, np.float32)
    other = z.copy()
    other[0, :50] = np.nextafter(np.float32(5), np.float32(6))
    found = logloss_difference(z, other, np.ones(100))
    assert found.value > 0
    assert found.p is not None
    assert found.p < 1e-10


def test_one_class_is_enough_and_extreme_scores_are_not_clipped() -> None:
    a, b = np.array([[-200.0, -300.0, 0.0]], np.float32), np.zeros((1, 3), np.float32)
    found = logloss_difference(a, b, [1, 1, 1])
    assert found.value == pytest.approx(500 / 3 - math.log(2) * 2 / 3)
    assert found.p is not None


def test_what_cannot_be_tested_has_no_p_and_says_why() -> None:
    a, b = np.array([[0.0, 1.0, 2.0]], np.float32), np.zeros((1, 3), np.float32)
    wrong = np.array([[math.inf, 1.0, 2.0]], np.float32)
    for found, note in (
        (logloss_difference(a, b, [0, 1, 1], [4, 4, 4]), "one user"),
        (logloss_difference(wrong, b, [0, 1, 1]), "infinite"),
        (logloss_difference(wrong, wrong, [0, 1, 1]), "infinite"),
        (logloss_difference(a[:, :0], b[:, :0], []), "no rows"),
        (logloss_difference(a[:, :1], b[:, :1] + 1, [1]), "fewer than two rows"),
        (logloss_difference(b, b + 1, [1, 1, 1]), "does not vary"),
    ):
        assert found.p is None
        assert found.interval is None
        assert note in found.note
    assert logloss_difference(wrong, b, [0, 1, 1]).value == math.inf
    assert logloss_difference(wrong, b, [1, 1, 1]).p is not None  # +inf is right there: no loss
    with pytest.raises(SeqmtlError, match="NaN"):
        logloss_difference(a * math.nan, b, [0, 1, 1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_sides_order_of_rows_and_names_of_users_do_not_matter(seed: int, clustered: bool) -> None:
    rng = np.random.default_rng(seed)
    split = simulated.of_users(rng, 12, 1.0, 0.5)
    users = split.user if clustered else None
    found, turned = logloss_difference(split.a, split.b, split.y, users), logloss_difference(split.b, split.a, split.y, users)
    assert turned.value == pytest.approx(-found.value, rel=1e-9, abs=1e-15)
    assert turned.p == pytest.approx(found.p, rel=1e-6)
    order = rng.permutation(len(split.y))
    moved = logloss_difference(split.a[:, order], split.b[:, order], split.y[order], None if users is None else 90 - users[order])
    assert moved.value == pytest.approx(found.value, rel=1e-9, abs=1e-15)
    assert moved.p == pytest.approx(found.p, rel=1e-6)
    # Turning class and log-odds round leaves every row's loss as it is.
    other = logloss_difference(-split.a, -split.b, 1 - split.y, users)
    assert (other.value, other.p) == (found.value, found.p)
