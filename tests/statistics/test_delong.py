"""DeLong and Obuchowski against their definitions by all pairs, other packages and permutation."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import binormal_cases as simulated
import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.nonparametric import rank_compare_2indep

from seqmtl.errors import SeqmtlError
from seqmtl.statistics.auc import auc, auc_interval, components, delong
from seqmtl.statistics.difference import Difference

pytestmark = pytest.mark.filterwarnings("error")
Array = npt.NDArray[np.float64]


def kernel(scores: npt.ArrayLike, y: npt.ArrayLike) -> Array:
    """(positives, negatives): 1 where the positive is above, ½ where they tie."""
    s, labels = np.asarray(scores, np.float64), np.asarray(y)
    apart = s[labels == 1][:, None] - s[labels == 0]
    return (np.sign(apart) + 1) / 2


def dense_delong(a: npt.ArrayLike, b: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, float]:
    """Difference and p from the 2 × 2 covariances of DeLong's paper, seeds averaged in the kernel."""
    first, second = (np.mean([kernel(scores, y) for scores in model], axis=0) for model in (a, b))
    value = first.mean() - second.mean()
    s10 = np.cov(first.mean(1), second.mean(1)) / first.shape[0]
    s01 = np.cov(first.mean(0), second.mean(0)) / first.shape[1]
    contrast = np.array([1, -1])
    error = math.sqrt(contrast @ (s10 + s01) @ contrast)
    return value, 2 * norm.sf(abs(value) / error)


def dense_obuchowski(a: Array, b: Array, y: npt.ArrayLike, user: npt.ArrayLike) -> float:
    """Variance of the difference of two single models, user by user, from the covariances of Obuchowski's paper."""
    labels, users = np.asarray(y), np.asarray(user)
    of_pos, of_neg = users[labels == 1], users[labels == 0]
    m, n = len(of_pos), len(of_neg)
    kernels = [kernel(scores, labels) for scores in (a, b)]
    theta = np.array([each.mean() for each in kernels])
    pos, neg = [], []
    for each in np.unique(users):
        rows_pos, rows_neg = of_pos == each, of_neg == each
        pos.append([k.mean(1)[rows_pos].sum() for k in kernels] - rows_pos.sum() * theta)
        neg.append([k.mean(0)[rows_neg].sum() for k in kernels] - rows_neg.sum() * theta)
    x, v = np.array(pos), np.array(neg)
    i, i10, i01 = len(x), len(np.unique(of_pos)), len(np.unique(of_neg))
    s10 = i10 / ((i10 - 1) * m) * x.T @ x
    s01 = i01 / ((i01 - 1) * n) * v.T @ v
    s11 = i / (i - 1) * x.T @ v
    covariance = s10 / m + s01 / n + (s11 + s11.T) / (m * n)
    contrast = np.array([1, -1])
    return float(contrast @ covariance @ contrast)


def variance(result: Difference) -> float:
    assert result.interval is not None
    return ((result.interval[1] - result.interval[0]) / 2 / norm.ppf(0.975)) ** 2


def tied(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return rng.normal(size=shape).round(1).astype(np.float32)


def test_components_of_five_rows_by_hand() -> None:
    scores = np.array([0.0, 1.0, 1.0, 2.0, -1.0], np.float32)
    y = [0, 1, 0, 1, 0]  # positives at 1 and 2, negatives at 0, 1 and -1
    np.testing.assert_array_equal(components(scores, y), [1.0, 2.5 / 3, 0.75, 1.0, 1.0])
    assert auc(scores, y) == 5.5 / 6


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_components_are_the_means_of_all_pairs(dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=157).round(1).astype(dtype), rng.random(157) < 0.3
    pairs = kernel(scores, y)
    found = components(scores, y)
    np.testing.assert_allclose(found[y], pairs.mean(1), rtol=1e-14)
    np.testing.assert_allclose(found[~y], pairs.mean(0), rtol=1e-14)


def test_auc_is_scikit_learns_and_mann_whitneys() -> None:
    rng = np.random.default_rng(1)
    scores, y = tied(rng, (500,)), (rng.random(500) < 0.1).astype(np.float32)
    u = mannwhitneyu(scores[y == 1], scores[y == 0]).statistic
    assert auc(scores, y) == pytest.approx(roc_auc_score(y, scores), abs=1e-14)
    assert auc(scores, y) == pytest.approx(u / (y.sum() * (1 - y).sum()), abs=1e-14)


def test_infinite_and_signed_zero_scores_are_ranks_like_others() -> None:
    scores = np.array([-math.inf, 0.0, -0.0, math.inf, math.inf], np.float32)
    assert auc(scores, [0, 1, 0, 1, 0]) == (1 + 0.5 + 0 + 1 + 1 + 0.5) / 6


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(1, 1), (3, 3), (2, 5)])
def test_delong_is_the_dense_formula(seeds_a: int, seeds_b: int) -> None:
    rng = np.random.default_rng(2)
    y = (rng.random(120) < 0.4).astype(np.int8)
    a, b = tied(rng, (seeds_a, 120)) + y * np.float32(0.8), tied(rng, (seeds_b, 120)) + y * np.float32(0.5)
    found, (value, p) = delong(a, b, y), dense_delong(a, b, y)
    assert found.value == pytest.approx(value, abs=1e-14)
    assert found.p == pytest.approx(p, rel=1e-9)
    assert found.interval is not None
    assert sum(found.interval) / 2 == pytest.approx(value, abs=1e-14)
    assert found.method == "DeLong, 120 rows"


def test_the_interval_of_one_model_is_statsmodels() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(300) < 0.3).astype(np.int8)
    scores = tied(rng, (1, 300)) + y * np.float32(0.7)
    theirs = rank_compare_2indep(scores[0][y == 1], scores[0][y == 0], use_t=False)
    value, interval = auc_interval(scores, y)
    assert value == pytest.approx(theirs.prob1, abs=1e-14)
    assert interval == pytest.approx(theirs.conf_int(), rel=1e-9)


def test_delong_agrees_with_swapping_the_models_of_rows() -> None:
    """Without a difference the two scores of a row may be swapped; the share of swaps that differ more is p without a formula."""
    rng = np.random.default_rng(4)
    found, exact = [], []
    for advantage in (0.0, 0.0, 0.2, 0.3, 0.5, 0.6):
        split = simulated.rows(rng, 30, 45, 1.0 + advantage, 1.0, shared=0.6)
        swap = rng.random((4000, 75)) < 0.5
        first, second = np.where(swap, split.b, split.a), np.where(swap, split.a, split.b)
        apart = np.abs(_areas(first, split.y) - _areas(second, split.y))
        observed = delong(split.a, split.b, split.y)
        assert observed.p is not None
        found.append(observed.p)
        exact.append((1 + (apart >= abs(observed.value) - 1e-12).sum()) / 4001)
    assert min(exact) < 0.2  # the cases are not all of one kind
    assert max(exact) > 0.5
    np.testing.assert_allclose(found, exact, atol=0.04)


def _areas(scores: npt.NDArray[np.float32], y: npt.NDArray[np.int8]) -> Array:
    """(R,rows) → (R,) by all pairs; there are no ties."""
    return np.mean(scores[:, y == 1][:, :, None] > scores[:, y == 0][:, None], axis=(1, 2))


def test_obuchowski_is_the_dense_formula() -> None:
    rng = np.random.default_rng(5)
    split = simulated.of_users(rng, 40, 0.9, 0.6)
    a, b = split.a.round(1), split.b.round(1)
    found = delong(a, b, split.y, split.user)
    assert found.value == pytest.approx(auc(a[0], split.y) - auc(b[0], split.y), abs=1e-14)
    assert variance(found) == pytest.approx(dense_obuchowski(a[0], b[0], split.y, split.user), rel=1e-9)
    assert found.method == "DeLong clustered by user (Obuchowski), 40 users"


def test_obuchowski_is_delong_where_each_row_is_its_own_user() -> None:
    rng = np.random.default_rng(6)
    y = (rng.random(200) < 0.3).astype(np.int8)
    a, b = tied(rng, (2, 200)), tied(rng, (2, 200))
    rows, users = delong(a, b, y), delong(a, b, y, rng.permutation(200))
    assert users.value == rows.value
    assert users.p == pytest.approx(rows.p, rel=1e-12)
    assert users.interval == pytest.approx(rows.interval, rel=1e-12)


def test_doubling_every_row_changes_delong_but_not_obuchowski() -> None:
    """What copies add is no information: clustered, each user with its two rows counts once."""
    rng = np.random.default_rng(7)
    split = simulated.rows(rng, 60, 90, 1.0, 0.8)
    twice = [np.repeat(each, 2, axis=-1) for each in (split.a, split.b, split.y, split.user)]
    once, copied = delong(split.a, split.b, split.y), delong(*twice)
    assert copied.value == once.value
    assert variance(once) / 2.1 < variance(delong(*twice[:3])) < variance(once) / 1.9
    assert variance(copied) == pytest.approx(variance(once), rel=1e-12)


@pytest.mark.parametrize("user", [lambda u: u * 10**12, lambda u: -u, lambda u: u.astype(np.uint64), lambda u: u.astype(np.int16)])
def test_ids_of_users_may_be_any_integers(user: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.integer]]) -> None:
    split = simulated.of_users(np.random.default_rng(8), 30, 0.9, 0.6)
    dense, other = delong(split.a, split.b, split.y, split.user), delong(split.a, split.b, split.y, user(split.user))
    assert other.value == dense.value
    assert other.p == pytest.approx(dense.p, rel=1e-12)
    assert other.method == dense.method


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    rng = np.random.default_rng(9)
    y, a = (rng.random(300) < 0.2).astype(np.int8), tied(rng, (3, 300))
    for b in (a, a[::-1], np.concatenate([a, a]), np.exp(a) + 1):
        for clusters in (None, np.arange(300) // 3):
            found = delong(a, b, y, clusters)
            assert (found.value, found.p, found.interval) == (0.0, 1.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("y", "clusters", "note"),
    [
        ([0, 0, 0, 0], None, "one class only"),
        ([1, 1, 1, 1], [1, 1, 2, 2], "one class only"),
        ([1, 0, 0, 0], None, "there is one positive row"),
        ([1, 1, 1, 0], None, "there is one negative row"),
        ([1, 0, 1, 0], [7, 7, 7, 7], "all positive rows are of one user"),
        ([1, 1, 0, 0], [1, 2, 3, 3], "all negative rows are of one user"),
    ],
)
def test_what_cannot_be_tested_has_no_p_and_says_why(y: list[int], clusters: list[int] | None, note: str) -> None:
    a, b = np.array([[3, 1, 2, 0]], np.float32), np.array([[0, 1, 3, 2]], np.float32)
    found = delong(a, b, y, clusters)
    assert found.p is None
    assert found.interval is None
    assert note in found.note
    assert math.isnan(found.value) == ("class" in note)


def test_no_rows_have_no_auc() -> None:
    none = np.zeros((1, 0), np.float32)
    assert math.isnan(auc(none[0], []))
    assert components(none[0], []).shape == (0,)
    assert delong(none, none, []).p is None
    assert auc_interval(none, [], np.zeros(0, int))[1] is None


def test_a_difference_without_variance_is_not_called_certain() -> None:
    right = np.array([[0, 0, 1, 1]], np.float32)
    found = delong(right, -right, [0, 0, 1, 1])
    assert found.value == 1.0
    assert found.p is None
    assert "does not vary" in found.note


def test_an_interval_of_one_model_stays_within_0_and_1() -> None:
    rng = np.random.default_rng(10)
    y = np.repeat([0, 1], 15)
    value, interval = auc_interval((y * 2.2 + rng.normal(size=30))[None], y)
    assert interval is not None
    assert interval[0] < value < interval[1] == 1.0


@pytest.mark.parametrize(
    ("a", "y", "clusters", "error"),
    [
        ([[0.0, math.nan]], [0, 1], None, SeqmtlError),
        ([[0.0, 1.0, 2.0]], [0, 1], None, ValueError),
        ([[0, 1]], [0, 1], None, ValueError),  # integers are probably labels
        ([0.0, 1.0], [0, 1], None, ValueError),  # one model's rows in place of a list of seeds
        ([], [0, 1], None, ValueError),
        ([[0.0, 1.0]], [-1, 1], None, ValueError),
        ([[0.0, 1.0]], [[0, 1]], None, ValueError),
        ([[0.0, 1.0]], [0, 1], [1, 2, 3], ValueError),
        ([[0.0, 1.0]], [0, 1], [1.0, 2.0], ValueError),
    ],
)
def test_wrong_input_is_refused(a: list, y: list, clusters: list | None, error: type[Exception]) -> None:
    good = np.zeros((1, 2), np.float32)
    seeds = np.array(a)
    with pytest.raises(error):
        delong(seeds, good, y, clusters)
    with pytest.raises(error):
        delong(good, seeds, y, clusters)


def test_memory_is_a_few_numbers_a_row() -> None:
    """43 M rows must fit: under 3 GB for a test of any number of seeds."""
    rng, rows = np.random.default_rng(11), 200_000
    y = (rng.random(rows) < 0.04).astype(np.int8)
    a, b, user = rng.normal(size=(2, rows)).astype(np.float32), rng.normal(size=(2, rows)).astype(np.float32), np.arange(rows) // 9
    tracemalloc.start()
    delong(a, b, y, user)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / rows < 65
