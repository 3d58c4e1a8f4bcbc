"""Gradients of embedding tables between ranks: the rows that a batch read are sent, and no others.

Every rank adds the same pieces in the same order, so all have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.table_gradients import replace_gradient, rows_with_gradient
from seqmtl.steps.ranks import world_size

NONE = -1  # stands for the number of rows where there is no gradient


@torch.no_grad()
def exchange_tables(tables: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Their gradients become the sums over the ranks, of those in which few rows have one; the others are returned.

    A table without a gradient on any rank keeps none. On a GPU this waits for the device, to know how many rows there are.
    """
    if not tables:
        return []
    mine = [rows_with_gradient(table) if table.grad is not None else None for table in tables]
    numbers = torch.tensor([NONE if found is None else len(found[0]) for found in mine], device=tables[0].device)
    counts = _of_ranks(numbers).T.tolist()  # of each table on each rank
    few = [2 * len(n) * max(n) <= len(table) for table, n in zip(tables, counts, strict=True)]
    sent = [(table, found, n) for table, found, n, is_few in zip(tables, mine, counts, few, strict=True) if is_few and max(n) >= 0]
    if sent:
        most = [max(n) for *_, n in sent]
        filled = [_filled(table, found, length) for (table, found, _), length in zip(sent, most, strict=True)]
        rows = _of_ranks(torch.cat([r for r, _ in filled])).split(most, 1)  # of each table (ranks,most)
        values = _of_ranks(torch.cat([v.flatten() for _, v in filled])).split([v.numel() for _, v in filled], 1)
        for (table, _, n), r, v, length in zip(sent, rows, values, most, strict=True):
            of_ranks = v.unflatten(1, (length, table.shape[1]))  # (ranks,most,D)
            replace_gradient(table, [(r[rank, :here], of_ranks[rank, :here]) for rank, here in enumerate(n) if here > 0])
    return [table for table, is_few in zip(tables, few, strict=True) if not is_few]


def _filled(table: nn.Parameter, found: tuple[Tensor, Tensor] | None, length: int) -> tuple[Tensor, Tensor]:
    """A rank's rows (length,) and values (length,D), filled up."""
    if found is None:
        found = torch.empty(0, dtype=torch.int64, device=table.device), table.new_empty(0, table.shape[1])
    short = length - len(found[0])
    return F.pad(found[0], (0, short)), F.pad(found[1], (0, 0, 0, short))


def _of_ranks(mine: Tensor) -> Tensor:
    """(N,) of each rank, as many on all → (ranks,N)."""
    ranks = mine.new_empty(world_size(), len(mine))
    if len(mine):
        dist.all_gather(list(ranks), mine)
    return ranks
