"""The gradients of tables between ranks: the sums of all, the same bits on all, and nothing of the step before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from on_ranks import on_ranks
from seqmtl.nn.embedding import FieldEmbedding, watch
from seqmtl.nn.table_gradients import add_gradients, clear_gradients, forget_rows, touched_rows
from seqmtl.types import Field

ROWS = (300, 40)
# What each rank reads of the two tables in each step; None: no gradient; "all" and "nan": a gradient by another hand.
STEPS: list[list[tuple[Any, Any]]] = [
    [([3, 3, 250], [7]), ([3, 1], [7, 7, 8]), ([], [9])],
    [([5], None), (None, None), ([5, 6], None)],
    [(None, None), (None, None), (None, None)],
    [(list(range(290)), [1]), ([2], list(range(39))), ([2], None)],
    [("all", [1]), ([4], "all"), ([0, 299], [2])],
    [([], []), ([], None), (None, [])],
    [("nan", [1]), ([4], [2]), ([8], "nan")],
    [([1], [3]), ([2], [4]), ([3], [5])],
]
WHOLE = {(3, 0), (3, 1)}  # (step, table) of which so many rows have a gradient that none is sent alone


def gradient_of(weight: Tensor, read: Any, rank: int) -> Tensor:
    gradient = torch.zeros_like(weight)
    if read == "all":
        gradient[::100] = rank + 0.1
    elif read == "nan":
        gradient[5] = torch.tensor([float("nan"), float("inf")])
    elif read is not None:
        for place, row in enumerate(read):
            gradient[row] += rank + 1 / (place + 3)
    return gradient


def exchanged(rank: int, n: int) -> list[Any]:
    from seqmtl.table_exchange import exchange_tables

    torch.manual_seed(0)
    tables = [FieldEmbedding([Field("item", size)], 2) for size in ROWS]
    found: list[Any] = []
    for step in STEPS:
        for table, read in zip(tables, step[rank], strict=True):
            if isinstance(read, str):
                table.weight.grad = gradient_of(table.weight, read, rank)
                forget_rows(table.weight)
            elif read is not None:
                with watch(table, cut=True) as lookups:
                    vectors = table.lookup("item", torch.tensor(read, dtype=torch.int64))
                (vectors.sum(1) @ torch.tensor([rank + 1 / (place + 3) for place in range(len(read))])).backward()
                add_gradients(lookups)
        weights: list[nn.Parameter] = [table.weight for table in tables]
        left = exchange_tables(weights)
        told = [None if w.grad is None else w.grad.clone() for w in weights]
        rows = [None if touched_rows(w) is None else torch.cat([*touched_rows(w), torch.empty(0)]).long() for w in weights]  # type: ignore[misc]
        found.append((told, [any(w is x for x in left) for w in weights], rows))
        clear_gradients(weights)
    return found


@pytest.mark.parametrize("n", [2, 3])
def test_sums_of_all_ranks(n: int) -> None:
    ranks = on_ranks(n, exchanged)
    for number, step in enumerate(STEPS):
        for t, size in enumerate(ROWS):
            reads = [step[rank][t] for rank in range(n)]
            own = [gradient_of(torch.zeros(size, 2), read, rank) for rank, read in enumerate(reads)]
            whole = (number, t) in WHOLE
            for rank in range(n):
                gradients, left, rows = ranks[rank][number]
                assert left[t] == whole
                if whole or all(read is None for read in reads):
                    expected = own[rank] if reads[rank] is not None else None
                else:
                    expected = torch.stack(own).sum(0)
                    assert {*expected.any(1).nonzero().flatten().tolist()} <= {*rows[t].tolist()}, "or it is not cleared"
                    assert gradients[t].view(torch.int32).equal(ranks[0][number][0][t].view(torch.int32)), "all have the same bits"
                assert (gradients[t] is None) == (expected is None)
                if expected is not None:
                    torch.testing.assert_close(gradients[t], expected, equal_nan=True)
