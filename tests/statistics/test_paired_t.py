"""The papers' test over seeds, against statsmodels, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from seqmtl.statistics.seeds import paired_t

pytestmark = pytest.mark.filterwarnings("error")
AUCS = {1: 0.6043, 2: 0.6021, 3: 0.6055, 4: 0.6037, 5: 0.6049}
OTHER = {1: 0.6012, 2: 0.6019, 3: 0.6018, 4: 0.6020, 5: 0.6031}


def test_it_is_statsmodels_t_test_of_the_differences() -> None:
    found = paired_t(AUCS, OTHER)
    theirs = DescrStatsW([AUCS[seed] - OTHER[seed] for seed in AUCS])
    assert found.value == pytest.approx(theirs.mean, rel=1e-12)
    assert found.p == pytest.approx(theirs.ttest_mean(0)[1], rel=1e-9)
    assert found.interval == pytest.approx(theirs.tconfint_mean(), rel=1e-9)
    assert found.method == "paired t-test over 5 seeds"
    assert found.note == ""


def test_a_textbook_case() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / √3) = 3.4641 with two degrees of freedom, p = 0.0742."""
    found = paired_t({1: 1.0, 2: 2.0, 3: 3.0}, {1: 0.0, 2: 0.0, 3: 0.0})
    assert found.p == pytest.approx(0.0742, abs=5e-5)
    assert found.interval == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), abs=1e-3)


def test_only_seeds_with_a_value_in_both_count() -> None:
    more = AUCS | {6: 0.9, 7: None, 8: math.nan}
    other = OTHER | {7: 0.1, 8: 0.1, 9: 0.2}
    assert paired_t(more, other) == paired_t(AUCS, OTHER)
    assert paired_t(dict(reversed(more.items())), other) == paired_t(AUCS, OTHER)


@pytest.mark.parametrize(
    ("a", "b", "value", "note"),
    [
        ({1: 0.6, 2: 0.7}, {1: 0.5, 2: 0.5}, 0.15, "2 common seeds; 3 are needed"),
        ({1: 0.6, 2: 0.7}, {2: 0.5, 3: 0.5}, 0.2, "1 common seed; 3 are needed"),
        ({1: 0.6}, {2: 0.5}, math.nan, "no seed has a value in both"),
        ({}, {}, math.nan, "no seed has a value in both"),
        ({1: 0.6, 2: 0.7, 3: 0.8}, {1: 0.5, 2: 0.6, 3: 0.7}, 0.1, "the difference is the same in all seeds"),
        ({1: math.inf, 2: 0.7, 3: 0.8}, {1: 0.5, 2: 0.6, 3: 0.7}, math.inf, "a value is infinite"),
        ({1: math.inf, 2: 0.7, 3: 0.8}, {1: math.inf, 2: 0.6, 3: 0.7}, math.nan, "a value is infinite"),
    ],
)
def test_where_there_is_no_test(a: dict[int, float], b: dict[int, float], value: float, note: str) -> None:
    found = paired_t(a, b)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert found.p is None
    assert found.interval is None
    assert found.note == note


def test_equal_values_are_no_difference() -> None:
    found = paired_t(AUCS, dict(AUCS))
    assert (found.value, found.p, found.interval) == (0.0, 1.0, (0.0, 0.0))
    rounded = paired_t(AUCS, {seed: value + 1e-16 for seed, value in AUCS.items()})
    assert rounded.p == 1.0


@given(st.lists(st.tuples(st.floats(0.4, 0.9), st.floats(0.4, 0.9)), min_size=3, max_size=8))
def test_the_other_way_round_is_the_negative(pairs: list[tuple[float, float]]) -> None:
    a, b = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    found, turned = paired_t(a, b), paired_t(b, a)
    assert turned.value == -found.value
    assert (found.p is None) == (turned.p is None) == (found.interval is None)
    if found.interval is not None:
        assert turned.p == pytest.approx(found.p, rel=1e-9)
        assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), rel=1e-9, abs=1e-15)
        assert found.interval[0] <= found.value <= found.interval[1]


def test_p_is_uniform_where_there_is_no_difference() -> None:
    from scipy.stats import kstest

    rng = np.random.default_rng(0)
    values = rng.normal(0.6, 0.01, size=(500, 2, 5)).tolist()
    p = [paired_t(dict(enumerate(a)), dict(enumerate(b))).p for a, b in values]
    assert kstest(p, "uniform").pvalue > 0.01
