"""Metrics of rows that lie on several ranks are those of one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from on_ranks import on_ranks
from seqmtl.metrics import EXACT_ROWS, TaskMetrics
from seqmtl.types import Field, Schema, Task

ROWS = 600
SCHEMA = Schema((Field("a", 2),), (Task("click"), Task("purchase", "click"), Task("refund", "purchase")))
Shares = list[tuple[int, int]]


def predictions() -> tuple[Tensor, Tensor]:
    """Log-odds with many ties, labels of a funnel: the first 200 rows have no click, and no row at all has a refund."""
    random = torch.Generator().manual_seed(1)
    z = (torch.randn(ROWS, 3, generator=random) * 4).round() / 4 - torch.arange(3.0)
    y = torch.rand(ROWS, 3, generator=random).lt(z.sigmoid()).cumprod(1).float()
    y[:200], y[:, 2] = 0, 0
    return z, y


def measured(rank: int, n: int, cuts: list[Shares], exact_rows: int) -> list[dict[str, float | None]]:
    """For each way to share the rows out, with the model's conditional logits and without."""
    z, y = predictions()
    found = []
    for shares in cuts:
        for conditional in (None, z * 0.5):
            metric = TaskMetrics(SCHEMA, ROWS, given=True, exact_rows=exact_rows)
            start, stop = shares[rank]
            for a in range(start, max(stop, start + 1), 64):  # one batch at least, be it empty
                at = slice(a, min(a + 64, stop))
                metric.update(z[at], y[at], None if conditional is None else conditional[at])
            found.append(metric.compute())
    return found


def cuts(n: int) -> list[Shares]:
    even = [(ROWS * r // n, ROWS * (r + 1) // n) for r in range(n)]
    one_has_all = [(0, ROWS) if r == n - 1 else (0, 0) for r in range(n)]
    one_class_only = [(0, 200), *((200 + 400 * r // (n - 1), 200 + 400 * (r + 1) // (n - 1)) for r in range(n - 1))]
    return [even, one_has_all, one_class_only]


def compare(n: int, ways: list[Shares], exact_rows: int) -> None:
    expected = measured(0, 1, [[(0, ROWS)]], exact_rows) * len(ways)
    assert expected[0]["auc/refund"] is None
    assert expected[0]["pcoc/refund"] is None
    assert 0.5 < expected[0]["auc_given/purchase"] < 1  # type: ignore[operator]
    assert expected[0]["auc_given/purchase"] != expected[1]["auc_given/purchase"]
    for found in on_ranks(n, measured, ways, exact_rows):
        for mine, wanted in zip(found, expected, strict=True):
            assert [k for k, v in mine.items() if v is None] == [k for k, v in wanted.items() if v is None]
            assert [v for v in mine.values() if v is not None] == pytest.approx(
                [v for v in wanted.values() if v is not None], rel=1e-9
            )
            assert {k: v for k, v in mine.items() if "auc" in k} == {k: v for k, v in wanted.items() if "auc" in k}, "same bits"


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_metrics_of_ranks_are_those_of_one_process(n: int) -> None:
    compare(n, cuts(n), EXACT_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_so_are_those_of_a_split_that_is_too_large_to_keep(n: int) -> None:
    compare(n, cuts(n)[2:], exact_rows=0)
