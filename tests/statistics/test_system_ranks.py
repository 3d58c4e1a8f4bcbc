"""Ranks of systems over datasets: Demšar's own example, scipy's Friedman test, and the bars of the diagram."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from seqmtl.statistics.ranks import average_ranks, cliques, critical_difference, friedman

pytestmark = pytest.mark.filterwarnings("error")

# Demšar (2006), Table 6: AUC of four variants of C4.5 on 14 datasets.
TREES = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975],  # printed as equal, ranked 2 and 3
    [0.957, 0.978, 0.946, 0.970],
]


def test_the_example_of_the_paper() -> None:
    np.testing.assert_allclose(average_ranks(TREES), [3.143, 2.000, 2.893, 1.964], atol=6e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=0.005)
    # The paper's χ² of 9.28 and F of 3.69 are without the correction for ties: undone here.
    ties = sum(n**3 - n for row in TREES for n in np.unique(row, return_counts=True)[1].tolist())
    uncorrected = friedman(TREES).chi2 * (1 - ties / (14 * 4 * (4**2 - 1)))
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    assert 13 * uncorrected / (14 * 3 - uncorrected) == pytest.approx(3.69, abs=0.005)


@pytest.mark.parametrize(
    ("systems", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (10, 3.164)]
)
def test_nemenyis_q_is_the_papers_table_5(systems: int, q: float) -> None:
    assert critical_difference(systems, 1) / math.sqrt(systems * (systems + 1) / 6) == pytest.approx(q, abs=1e-3)
    assert studentized_range.ppf(0.95, systems, math.inf) / math.sqrt(2) == pytest.approx(q, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 9), st.integers(3, 6), st.booleans())
def test_friedman_is_scipys_with_ties(seed: int, blocks: int, systems: int, ties: bool) -> None:
    values = np.random.default_rng(seed).normal(size=(blocks, systems)).round(0 if ties else 6)
    if (np.ptp(values, axis=1) == 0).all():
        assert friedman(values).p == 1.0
        return
    theirs, found = friedmanchisquare(*values.T), friedman(values)
    assert found.chi2 == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    # Iman and Davenport: F of an analysis of variance of the ranks, systems against what blocks and systems leave.
    r = rankdata(values, axis=1)
    between = blocks * ((r.mean(0) - r.mean()) ** 2).sum()
    left = ((r - r.mean(0)) ** 2).sum()
    if left > 1e-9:
        assert found.f == pytest.approx(between / left * (blocks - 1), rel=1e-6, abs=1e-9)
    else:
        assert (found.f, found.f_p) == (math.inf, 0.0)


def test_less_is_better_for_a_loss() -> None:
    values = [[0.1, 0.2, 0.3], [0.1, 0.3, 0.3]]
    np.testing.assert_array_equal(average_ranks(values, better=-1), [1.0, 2.25, 2.75])
    np.testing.assert_array_equal(average_ranks(values), [3.0, 1.75, 1.25])
    assert friedman(values, better=-1) == friedman(values)


def test_all_the_same_is_no_difference() -> None:
    found = friedman(np.ones((4, 3)))
    assert (found.chi2, found.p, found.f, found.f_p) == (0.0, 1.0, 0.0, 1.0)


def test_nemenyi_finds_a_false_pair_as_rarely_as_the_level() -> None:
    rng = np.random.default_rng(0)
    means = rankdata(rng.random((2000, 30, 5)), axis=2).mean(1)
    assert np.mean(np.ptp(means, axis=1) >= critical_difference(5, 30)) == pytest.approx(0.05, abs=0.015)


def test_bars_join_what_is_not_apart() -> None:
    assert cliques([1.0, 3.5, 1.5, 2.4], 1.0) == [(0, 2), (2, 3)]
    assert cliques([1.0, 3.5, 1.5, 2.4], 3.0) == [(0, 2, 3, 1)]
    assert cliques([1.0, 2.0, 3.0], 1.0) == []  # exactly the difference apart is apart
    # The paper: nothing differs at 0.05; at 0.10 the plain tree (0) does from both with m (1 and 3).
    assert cliques(average_ranks(TREES), critical_difference(4, 14)) == [(3, 1, 2, 0)]
    assert cliques(average_ranks(TREES), critical_difference(4, 14, alpha=0.10)) == [(3, 1, 2), (2, 0)]
    assert cliques([], 1.0) == []


@given(st.lists(st.floats(1, 9), min_size=2, max_size=9), st.floats(0.1, 5))
def test_two_systems_share_a_bar_exactly_where_they_are_not_apart(ranks: list[float], difference: float) -> None:
    bars = cliques(ranks, difference)
    for i in range(len(ranks)):
        for j in range(i):
            assert any(i in bar and j in bar for bar in bars) == (abs(ranks[i] - ranks[j]) < difference)
    assert not any(set(bar) < set(other) for bar in bars for other in bars)


@pytest.mark.parametrize(
    ("values", "better", "said"),
    [([[0.1, math.nan]], 1, "NaN"), ([0.1, 0.2], 1, "shape"), ([[0.1]], 1, "shape"), ([[0.1, 0.2]], 0, "better is 0")],
)
def test_what_has_no_ranks_is_refused(values: list, better: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        average_ranks(values, better)


def test_one_block_or_one_system_has_no_test() -> None:
    with pytest.raises(ValueError, match="at least two"):
        friedman([[0.1, 0.2]])
    with pytest.raises(ValueError, match="1 systems"):
        critical_difference(1, 5)
