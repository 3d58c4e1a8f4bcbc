"""Holm's correction against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from seqmtl.statistics.multiple import holm


def test_a_case_by_hand() -> None:
    # Rising 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_none_stays_and_does_not_count() -> None:
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]
    assert holm([None]) == [None]
    assert holm([]) == []
    assert holm([0.02]) == [0.02]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_statsmodels_on_those_that_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p: list[float | None] = (rng.random(9) ** 3).round(2).tolist()  # with ties
    p[seed] = None
    found = holm(p)
    assert found[seed] is None
    theirs = multipletests([value for value in p if value is not None], method="holm")[1]
    np.testing.assert_allclose([value for value in found if value is not None], theirs, rtol=1e-12)


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12))
def test_it_keeps_places_and_order(p: list[float | None]) -> None:
    found = holm(p)
    assert [value is None for value in found] == [value is None for value in p]
    there = sorted(
        (value, adjusted) for value, adjusted in zip(p, found, strict=True) if value is not None and adjusted is not None
    )
    assert all(value <= adjusted <= min(1, value * len(there)) for value, adjusted in there)
    assert [adjusted for _, adjusted in there] == sorted(adjusted for _, adjusted in there)


def test_a_false_finding_among_many_is_as_rare_as_the_level() -> None:
    rng = np.random.default_rng(0)
    none = rng.random((2000, 7))
    assert np.mean([min(holm(p)) < 0.05 for p in none.tolist()]) == pytest.approx(0.05, abs=0.015)
    assert np.mean(none.min(1) < 0.05) > 0.25  # what it corrects
