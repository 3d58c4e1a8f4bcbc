"""Batches of rows that live on the device: 38 million rows of 18 fields are 2.7 GB of a GPU's memory.

Unusual: nothing is sent to the device but the order of an epoch, once. The batches are those of `Stream` over the same rows, row by
row, so it makes no difference to a run where its rows lie.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from seqmtl.data.rows import Rows
from seqmtl.data.stream import Stream
from seqmtl.types import Batch

SORTED = 1 << 22  # places that are sorted at a time
SHARE = 0.5  # of the device's free memory that the rows of a split may take: the model comes after them


class Resident(Stream):
    """Iterates over the batches of this rank; see `Stream`. Rows with histories or multi-valued fields are not for it.

    Args:
        rows: of one split; copied to the device, not kept.
        batch_size, seed, rank, world_size: see `Stream`.
        device: where the rows live.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(rows, batch_size, seed, rank, world_size)
        self.source = Rows.room(0, 0, 0, 0)
        self.fields, self.y = torch.from_numpy(rows.fields).to(device), torch.from_numpy(rows.y).to(device)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            self.position = 0
        order = None if self.seed is None else self._order(self.seed)
        for batch in range(self.position, self.batches):
            start, _ = self._span(batch)
            lo, hi, share = self._slice(batch)
            self.position += 1  # before the batch is handed out: a checkpoint after it must not repeat it
            if order is None:
                fields, y = self.fields[start + lo : start + hi], self.y[start + lo : start + hi]
            else:
                mine = order[start + lo : start + hi]
                fields, y = self.fields.index_select(0, mine), self.y.index_select(0, mine)
            yield Batch(fields, y.float(), share=share)

    def _order(self, seed: int) -> Tensor:
        """The places of an epoch (N,), sorted within each batch."""
        n = len(self.fields)
        shuffled = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
        np.random.default_rng([seed, self.epoch, 0]).shuffle(shuffled)
        order = torch.from_numpy(shuffled).to(self.fields.device)
        step = max(1, SORTED // self.batch_size) * self.batch_size
        for part in order.split(step):
            whole = part[: len(part) // self.batch_size * self.batch_size].view(-1, self.batch_size)
            whole.copy_(whole.sort(1).values)
            rest = part[whole.numel() :]
            rest.copy_(rest.sort().values)
        return order


def fits(rows: Rows, device: torch.device) -> bool:
    """Whether the rows of a split, and their order, take at most a share of what is free on a GPU."""
    needed = rows.fields.nbytes + rows.y.nbytes + 8 * len(rows)
    free, _ = torch.cuda.mem_get_info(device)
    return needed <= SHARE * free
