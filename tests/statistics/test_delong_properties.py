"""What must not change AUC and its test: monotone maps, the order of rows and seeds, which model comes first."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from seqmtl.statistics.auc import auc, components, delong
from seqmtl.statistics.difference import Difference

pytestmark = pytest.mark.filterwarnings("error")

CASES = st.integers(4, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(-4, 4), min_size=n, max_size=n), min_size=1, max_size=3),
        st.lists(st.lists(st.integers(-4, 4), min_size=n, max_size=n), min_size=1, max_size=3),
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.integers(0, 5), min_size=n, max_size=n) | st.none(),
        st.permutations(range(n)),
    )
)
Case = tuple[list[list[int]], list[list[int]], list[int], list[int] | None, list[int]]


def same(first: Difference, second: Difference, **tolerance: float) -> None:
    assert first.value == second.value or (math.isnan(first.value) and math.isnan(second.value))
    assert (first.p is None) == (second.p is None)
    if first.p is not None:
        assert first.p == pytest.approx(second.p, **tolerance)
        assert first.interval == pytest.approx(second.interval, **tolerance)


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_monotone_maps_order_of_rows_and_sides_do_not_matter(case: Case) -> None:
    a, b, (y, clusters, order) = np.array(case[0], np.float32), np.array(case[1], np.float32), case[2:]
    found = delong(a, b, y, clusters)
    exact = {"rel": 0.0, "abs": 0.0}
    same(delong(np.exp(a), b**3 + 7, y, clusters), found, **exact)
    turned = delong(b, a, y, clusters)
    mirrored = None if turned.interval is None else (-turned.interval[1], -turned.interval[0])
    same(Difference(-turned.value, mirrored, turned.p, turned.method), found, **exact)
    # The other class as positive, with the scores turned round, has the same pairs.
    same(delong(-a, -b, 1 - np.array(y), clusters), found, rel=1e-9, abs=1e-12)
    moved = None if clusters is None else np.array(clusters)[order]
    same(delong(a[:, order], b[::-1, order], np.array(y)[order], moved), found, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_components_average_to_the_auc_in_either_class(case: Case) -> None:
    scores, y = np.array(case[0][0], np.float32), np.array(case[2])
    found = components(scores, y)
    if y.min() == y.max():
        assert np.isnan(found).all()
        assert math.isnan(auc(scores, y))
        return
    assert found[y == 1].mean() == pytest.approx(auc(scores, y), abs=1e-12)
    assert found[y == 0].mean() == pytest.approx(auc(scores, y), abs=1e-12)
    assert auc(scores, y) == pytest.approx(roc_auc_score(y, scores), abs=1e-12)
