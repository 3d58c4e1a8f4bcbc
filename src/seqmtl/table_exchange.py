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

    A table without a gradient on any rank keeps none. On a GPU this waits for the device.
    """
    if not tables:
        return []
    device = tables[0].device
    mine = [None if table.grad is None else rows_with_gradient(table) for table in tables]
    counts = _of_ranks(torch.tensor([NONE if found is None else len(found[0]) for found in mine], device=device)).T.tolist()
    few = [2 * len(n) * max(n) <= len(table) for table, n in zip(tables, counts, strict=True)]
    sent = [(table, found, n) for table, found, n, is_few in zip(tables, mine, counts, few, strict=True) if is_few and max(n) >= 0]
    if sent:
        rows, values = (_of_ranks(_joined(sent, part)) for part in (0, 1))
        row, value = 0, 0
        for table, _, n in sent:
            width, most = table.shape[1], max(n)
            replace_gradient(
                table,
                [
                    (rows[r, row : row + here], values[r, value : value + here * width].view(here, width))
                    for r, here in enumerate(n)
                    if here > 0
                ],
            )
            row, value = row + most, value + most * width
    return [table for table, is_few in zip(tables, few, strict=True) if not is_few]


Sent = tuple[nn.Parameter, tuple[Tensor, Tensor] | None, list[int]]


def _joined(sent: Sequence[Sent], part: int) -> Tensor:
    """Rows (0) or values (1) of all tables as one message, each filled up to the longest of any rank."""
    pieces = []
    for table, found, n in sent:
        piece = table.new_empty(0, table.shape[1]) if part else torch.empty(0, dtype=torch.int64, device=table.device)
        if found is not None:
            piece = found[part]
        short = max(n) - len(piece)
        pieces.append(F.pad(piece, (0, 0, 0, short) if part else (0, short)).flatten())
    return torch.cat(pieces)


def _of_ranks(mine: Tensor) -> Tensor:
    """(N,) of each rank, as many on all → (ranks,N)."""
    ranks = mine.new_empty(world_size(), len(mine))
    dist.all_gather(list(ranks), mine)
    return ranks
