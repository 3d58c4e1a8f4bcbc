"""Means of loss terms over batches."""

from __future__ import annotations

import pytest
import torch

from seqmtl.term_means import TermMeans, stacked


def test_means_and_their_total_without_what_is_only_shown() -> None:
    means = TermMeans()
    for click, shown in ((1.0, 10.0), (2.0, 20.0)):
        means.add(*stacked({"click": torch.tensor(click), "buy": torch.tensor(0.5), "extra/weight": torch.tensor(shown)}))
    assert means.means() == {"train/loss": 2.0, "train/click": 1.5, "train/buy": 0.5, "train/extra/weight": 15.0}


def test_a_term_that_some_batches_lack_is_averaged_over_all() -> None:
    means = TermMeans()
    means.add(*stacked({"a": torch.tensor(1.0)}))
    means.add(*stacked({"a": torch.tensor(1.0), "b": torch.tensor(4.0)}))
    assert means.means() == {"train/loss": 3.0, "train/a": 1.0, "train/b": 2.0}


def test_nothing_added_is_nothing_told() -> None:
    assert TermMeans().means() == {}
    assert TermMeans.restored({}).means() == {}


def test_small_terms_are_not_lost_beside_large_sums() -> None:
    means = TermMeans()
    for _ in range(1000):
        means.add(*stacked({"a": torch.tensor(0.1)}))
    assert means.means()["train/a"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_a_state_goes_on_and_is_a_copy() -> None:
    means = TermMeans()
    means.add(*stacked({"a": torch.tensor(1.0)}))
    state = means.state()
    means.add(*stacked({"a": torch.tensor(5.0)}))
    again = TermMeans.restored(state)
    assert again.means()["train/a"] == 1.0
    again.add(*stacked({"a": torch.tensor(5.0)}))
    assert again.means() == means.means()
