"""Which rows are shown, on numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from seqmtl.errors import SeqmtlError
from seqmtl.figures import sampling, space


def test_positives_by_falling_and_negatives_by_rising_score() -> None:
    labels = np.array([1, 0, 1, 0, 1, 0])
    logits = np.array([0.1, 0.2, 3.0, -2.0, 1.0, -1.0])
    chosen = sampling.by_confidence(labels, logits, 500, 500, seed=0)
    assert chosen[1].tolist() == [2, 4, 0]
    assert chosen[0].tolist() == [3, 5, 1]
    some = sampling.by_confidence(labels, logits, 2, 1, seed=0)
    assert len(some[1]) == 2
    assert logits[some[1][0]] > logits[some[1][1]]
    assert set(some[1].tolist()) < {0, 2, 4}
    assert len(some[0]) == 1


def test_bins_are_equal_parts_of_the_ranks() -> None:
    assert sampling.bins(6, 2).tolist() == [0, 0, 0, 1, 1, 1]
    assert sampling.bins(5, 2).tolist() == [0, 0, 0, 1, 1]
    assert sampling.bins(8, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sampling.bins(500, 4).tolist() == [q for q in range(4) for _ in range(125)]
    assert sampling.bins(0, 4).tolist() == []


def test_the_easiest_rows_by_the_logloss_of_their_label() -> None:
    labels, logits = np.array([1, 0, 1, 0]), np.array([2.0, 2.0, -1.0, -3.0])
    expected = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0)), np.log1p(np.exp(1.0)), np.log1p(np.exp(-3.0))]
    np.testing.assert_allclose(sampling.log_loss(labels, logits), expected)
    assert sampling.easiest(labels, logits, np.array([0, 1, 2, 3]), 3, seed=0).tolist() == [3, 0, 2]
    assert sampling.easiest(labels, logits, np.array([1, 2]), 5, seed=0).tolist() == [2, 1]


def test_long_histories_and_the_longest_where_there_are_too_few() -> None:
    lengths = np.array([50, 3, 41, 40, 0, 45, 12])
    places, enough = sampling.by_length(lengths, 40, 2, seed=0)
    assert enough == 3
    assert len(places) == 2
    assert set(places.tolist()) < {0, 2, 5}
    places, enough = sampling.by_length(lengths, 40, 5, seed=0)
    assert (places.tolist(), enough) == ([0, 2, 3, 5, 6], 3)
    places, _ = sampling.by_length(lengths, 40, 100, seed=0)
    assert places.tolist() == [0, 1, 2, 3, 5, 6], "a row without items has no interest to show"


def test_rows_of_extreme_rates() -> None:
    rates = np.arange(200)[::-1] / 200
    groups = sampling.extremes(rates, 0.02, 500, seed=0)
    assert groups["top"].tolist() == [0, 1, 2, 3]
    assert groups["bottom"].tolist() == [196, 197, 198, 199]
    assert groups["middle"].tolist() == [98, 99, 100, 101]
    assert [len(g) for g in sampling.extremes(rates, 0.1, 5, seed=0).values()] == [5, 5, 5]
    assert [len(g) for g in sampling.extremes(rates, 0.001, 5, seed=0).values()] == [1, 1, 1], "one row at least"


def test_equal_values_stand_in_random_order_and_the_same_each_time() -> None:
    same = np.zeros(100)
    order = sampling.ranked(same, seed=1)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
    assert order.tolist() == sampling.ranked(same, seed=1).tolist() != sampling.ranked(same, seed=2).tolist()


def test_agreement_of_groups_apart_and_of_groups_alike() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], [300, 100])
    apart = rng.normal(size=(400, 3)) + 50 * (groups == "a")[:, None]
    assert space.agreement(apart, groups) == 1
    assert space.agreement(rng.normal(size=(400, 3)), groups) == pytest.approx(0.5, abs=0.05), "whatever their sizes"


def test_maps_keep_groups_apart_and_are_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    vectors = 1e-4 * (rng.normal(size=(60, 5)) + 20 * (np.arange(60) < 30)[:, None])
    plane = space.tsne(vectors, 30.0, seed=0)
    assert plane.shape == (60, 2)
    assert space.agreement(plane, np.arange(60) < 30) == 1
    np.testing.assert_array_equal(plane, space.tsne(vectors, 30.0, seed=0))
    flat, shown = space.pca(vectors, seed=0)
    assert shown > 0.9
    assert np.ptp(flat[:, 0]) > 3 * np.ptp(flat[:, 1])
    with pytest.raises(SeqmtlError, match="a map of 9 vectors"):
        space.tsne(vectors[:9], 30.0, seed=0)
