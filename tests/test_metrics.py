"""AUC, LogLoss and PCOC against scikit-learn, hand-computed cases, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.metrics import AUC, PCOC, LogLoss, ordered_keys

DENORMAL, HUGE = 1e-42, 1e30
WAYS = pytest.mark.parametrize("exact_rows", [2**22, 0], ids=["exact", "histogram"])


def auc(scores: npt.ArrayLike | Tensor, y: npt.ArrayLike | Tensor, exact_rows: int = 2**22) -> float:
    metric = AUC(0 if exact_rows else 1, exact_rows)
    metric.update(torch.as_tensor(scores, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32))
    return float(metric.compute())


def sigmoid(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-z))


# --- AUC: right ---


@WAYS
def test_hand_case(exact_rows: int) -> None:
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], exact_rows) == 0.75


@WAYS
@pytest.mark.parametrize("value", [0.0, -0.0, -8.1234567, 60.0, -HUGE, DENORMAL, math.inf, -math.inf])
def test_constant_predictions_are_one_half(value: float, exact_rows: int) -> None:
    assert auc([value] * 7, [0, 1, 0, 0, 1, 0, 0], exact_rows) == 0.5


@WAYS
def test_zero_and_minus_zero_tie_and_infinities_are_ends(exact_rows: int) -> None:
    assert auc([-0.0, 0.0], [0, 1], exact_rows) == auc([-0.0, 0.0], [1, 0], exact_rows) == 0.5
    assert auc([-math.inf, -HUGE, HUGE, math.inf], [0, 0, 1, 1], exact_rows) == 1.0
    assert auc([-math.inf, -3e38, 3e38, math.inf], [1, 0, 1, 0], exact_rows) == 0.25


def test_keys_order_as_floats() -> None:
    edges = torch.tensor([0.0, 1e-45, DENORMAL, 1.2e-38, 1e-3, 1 / 64, 1.0, 1 + 2**-23, 63.99, 64.0, 3.4e38, math.inf])
    scores = torch.cat([-edges.flip(0), edges])
    keys = ordered_keys(scores)
    assert keys.tolist() == sorted(keys.tolist())
    assert torch.equal(keys[:, None] == keys, scores[:, None] == scores)


values = st.one_of(
    st.floats(-12, 12, width=32),
    st.integers(-3, 3).map(float),
    st.sampled_from([-0.0, 0.0, 60.0, -60.0, HUGE, -HUGE, DENORMAL, -DENORMAL, 1e-45, 3.4e38]),
)


@st.composite
def columns(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Scores and labels with both classes: ties, extreme rates, extreme logits."""
    pool = draw(st.lists(values, min_size=1, max_size=30))
    n = draw(st.integers(2, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = np.asarray(pool, np.float32)[rng.integers(0, len(pool), n)]
    if draw(st.booleans()):
        scores = scores + rng.normal(0, 1, n).astype(np.float32)
    y = (rng.random(n) < draw(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.99, 1.0]))).astype(np.int64)
    y[rng.permutation(n)[:2]] = [0, 1]
    return scores, y


@settings(max_examples=200, deadline=None)
@given(columns())
def test_exact_equals_sklearn(case: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]) -> None:
    scores, y = case
    assert auc(scores, y) == pytest.approx(roc_auc_score(y, scores.astype(np.float64)), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-100, 100), min_size=2, max_size=200), st.integers(0, 2**32 - 1))
def test_histogram_is_exact_on_ties(quanta: list[int], seed: int) -> None:
    scores = np.asarray(quanta, np.float32) / 8  # at most one value in a bin
    y = np.random.default_rng(seed).integers(0, 2, len(quanta))
    y[:2] = [0, 1]
    assert auc(scores, y, exact_rows=0) == pytest.approx(roc_auc_score(y, scores.astype(np.float64)), abs=1e-12)


@pytest.mark.parametrize("quantum", [None, 1e-4, 0.01], ids=["continuous", "quantised", "coarse"])
def test_histogram_is_within_a_millionth_at_a_rate_of_two_in_ten_thousand(quantum: float | None) -> None:
    rows = 1_000_000
    for seed in range(3):
        rng = np.random.default_rng(seed)
        y = (rng.random(rows, dtype=np.float32) < 2e-4).astype(np.float32)
        scores = rng.standard_normal(rows, dtype=np.float32) - 8 + 0.95 * y
        if quantum is not None:
            scores = (np.round(scores / quantum) * quantum).astype(np.float32)
        exact = auc(scores, y)
        assert 0.7 < exact < 0.8
        assert auc(scores, y, exact_rows=0) == pytest.approx(exact, abs=1e-6 if quantum != 0.01 else 1e-12)


def test_two_hundred_thresholds_on_probabilities_would_fail_here() -> None:
    """Why the histogram is over log-odds: at this rate all probabilities lie in the first of 200 bins."""
    rng = np.random.default_rng(0)
    y = (rng.random(200_000) < 1e-3).astype(np.float32)
    scores = (rng.standard_normal(200_000) - 8 + 0.95 * y).astype(np.float32)
    exact = roc_auc_score(y, scores.astype(np.float64))
    assert abs(roc_auc_score(y, np.floor(sigmoid(scores.astype(np.float64)) * 200)) - exact) > 0.1
    # Bins hold about 20 negatives of 200,000: √(20/12) / 200,000 / √200 positives = 5e-7, times 6.
    assert auc(scores, y, exact_rows=0) == pytest.approx(exact, abs=3e-6)


# --- AUC: what must not change it ---


@WAYS
@settings(max_examples=10, deadline=None)
@given(case=columns(), cuts=st.lists(st.integers(0, 400), max_size=6), seed=st.integers(0, 2**32 - 1))
def test_batches_and_order_do_not_matter(
    exact_rows: int, case: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]], cuts: list[int], seed: int
) -> None:
    scores, y = torch.from_numpy(case[0]), torch.from_numpy(case[1])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    metric = AUC(0 if exact_rows else 1, exact_rows)
    bounds = sorted({0, len(y), *(min(cut, len(y)) for cut in cuts)})
    for start, end in zip([0, *bounds], [*bounds, len(y)], strict=True):  # the first and the last are empty
        metric.update(scores[order[start:end]], y[order[start:end]])
    assert float(metric.compute()) == auc(case[0], case[1], exact_rows)


@WAYS
def test_merged_halves_are_the_whole(exact_rows: int) -> None:
    torch.manual_seed(0)
    z, y = torch.randn(1000, 2), (torch.rand(1000, 2) < 0.1).float()
    rows = 0 if exact_rows else 1
    whole, left, right = (AUC(rows, exact_rows, columns=2) for _ in range(3))
    whole.update(z, y)
    left.update(z[:300], y[:300])
    right.update(z[300:], y[300:])
    left.merge_state(right)
    assert torch.equal(left.compute(), whole.compute())
    for make in (LogLoss, PCOC):
        whole_sum, left_sum, right_sum = (make(2) for _ in range(3))
        whole_sum.update(z, y)
        left_sum.update(z[:300], y[:300])
        right_sum.update(z[300:], y[300:])
        left_sum.merge_state(right_sum)
        torch.testing.assert_close(left_sum.compute(), whole_sum.compute(), rtol=1e-14, atol=0)


def test_monotone_maps_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(-4, 2, 3000), 2)
    y = rng.integers(0, 2, 3000)
    expected = auc(scores, y)
    # Maps that neither merge nor part scores that are 0.01 apart, in float32.
    for monotone in (lambda x: 3 * x + 5, np.exp, sigmoid, lambda x: x**3, np.arcsinh, lambda x: -np.exp(-x)):
        assert auc(monotone(scores), y) == expected
    assert auc(-scores, y) == pytest.approx(1 - expected, abs=1e-15)


@WAYS
def test_reset_forgets_also_across_inference_mode(exact_rows: int) -> None:
    metric = AUC(0 if exact_rows else 1, exact_rows)
    with torch.inference_mode():
        metric.reset()
        metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        assert float(metric.compute()) == 0.0
    metric.update(torch.tensor([3.0]), torch.tensor([1.0]))
    assert float(metric.compute()) == 0.5
    metric.reset()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
    assert float(metric.compute()) == 1.0


def test_a_reused_buffer_of_the_caller_does_not_matter() -> None:
    metric, z, y = AUC(10), torch.tensor([1.0, 2.0]), torch.tensor([0, 1], dtype=torch.int8)
    metric.update(z, y)
    z.zero_(), y.zero_()
    assert float(metric.compute()) == 1.0


# --- AUC: undefined or diverged ---


@WAYS
def test_undefined_is_nan(exact_rows: int) -> None:
    assert math.isnan(auc([1.0, 2.0], [1, 1], exact_rows))
    assert math.isnan(auc([1.0, 2.0], [0, 0], exact_rows))
    assert math.isnan(auc([], [], exact_rows))


@WAYS
@pytest.mark.parametrize("nan", [math.nan, -math.nan])
def test_nan_says_that_the_model_diverged(exact_rows: int, nan: float) -> None:
    with pytest.raises(SeqmtlError, match=r"1 scores are NaN.*the model diverged"):
        auc([0.0, nan, 1.0], [0, 1, 1], exact_rows)


# --- LogLoss and PCOC ---


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=100), st.integers(0, 2**32 - 1))
def test_logloss_equals_sklearn(logits: list[float], seed: int) -> None:
    z = np.asarray(logits, np.float32)
    y = np.random.default_rng(seed).integers(0, 2, len(z))
    metric = LogLoss()
    metric.update(torch.from_numpy(z), torch.from_numpy(y))
    assert float(metric.compute()) == pytest.approx(
        log_loss(y, sigmoid(z.astype(np.float64)), labels=[0, 1]), rel=1e-2 if abs(z).max() > 20 else 1e-6
    )
    expected = np.logaddexp(0, np.where(y == 1, -1, 1) * z.astype(np.float64)).mean()
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("z", "y", "expected"),
    [
        (60.0, 1, math.exp(-60)),
        (60.0, 0, 60.0),
        (-60.0, 1, 60.0),
        (-60.0, 0, math.exp(-60)),
        (HUGE, 1, 0.0),
        (HUGE, 0, float(np.float32(HUGE))),
        (-0.0, 1, math.log(2)),
        (DENORMAL, 0, math.log(2)),
        (math.inf, 1, 0.0),
        (-math.inf, 0, 0.0),
        (math.inf, 0, math.inf),
    ],
)
def test_logloss_of_extreme_logits(z: float, y: int, expected: float) -> None:
    metric = LogLoss()
    metric.update(torch.tensor([z]), torch.tensor([float(y)]))
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-12)


def test_pcoc_is_mean_prediction_over_base_rate() -> None:
    metric = PCOC(2)
    z = torch.tensor([[0.0, 1.0], [math.log(3), 2.0], [-math.log(3), -1.0], [0.0, 0.0]])
    metric.update(z[:1], torch.tensor([[1.0, 0.0]]))
    metric.update(z[1:], torch.tensor([[0.0, 0.0]] * 3))
    first, second = metric.compute().tolist()
    assert first == pytest.approx(0.5 / 0.25, rel=1e-7)
    assert math.isnan(second)


@pytest.mark.slow
def test_every_row_of_a_large_split_counts_once() -> None:
    """4.2 M rows and more take the histogram by themselves; rms error is below 1e-7 there."""
    rows = 2**22 + 1000
    rng = np.random.default_rng(0)
    y = torch.from_numpy((rng.random(rows, dtype=np.float32) < 2e-4).astype(np.float32))
    z = torch.from_numpy(rng.standard_normal(rows, dtype=np.float32)) - 8 + 0.95 * y
    metric, exact = AUC(rows), AUC(rows, exact_rows=rows)
    for start in range(0, rows, 8192):
        metric.update(z[start : start + 8192], y[start : start + 8192])
    exact.update(z, y)
    assert not metric.exact
    assert int(metric.count.sum()) == rows
    assert float(metric.compute()) == pytest.approx(float(exact.compute()), abs=5e-7)
