"""Batches of one split, shared out to ranks, resumable to the batch.

Unusual: the batches of an epoch are a pure function of (seed, epoch), and the state is a position in *global* batches. So a
resumed run, and a run on another number of ranks, see the very rows of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from seqmtl.data.table import Table
from seqmtl.types import Batch


class Stream:
    """Iterates over the batches of this rank.

    Args:
        table: the rows.
        batch_size: rows of a global batch; the last one of an epoch may be short.
        seed: shuffles the rows anew each epoch; None keeps their order.
        rank, world_size: a rank takes its contiguous slice of each global batch; where a short one has none for it, it trains on a
            row of weight 0.
    """

    def __init__(self, table: Table, batch_size: int, seed: int | None = None, rank: int = 0, world_size: int = 1) -> None:
        self.table = table
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0  # global batches already handed out

    def __len__(self) -> int:
        # Lightning prefetches a batch from a loader without a length, and a resume would lose that one.
        return -(-len(self.table) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes where the stream stands in that epoch already (a resumed run)."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so nothing happens before the first batch is asked for: Lightning calls iter() before it tells the epoch.
        if self.seed is None:
            self.position = 0
        order = self._order()
        while self.position < len(self):
            rows = order[self.position * self.batch_size :][: self.batch_size]
            lo, hi = (len(rows) * r // self.world_size for r in (self.rank, self.rank + 1))
            share = (hi - lo) / len(rows)
            # A rank that gets no row of a short batch trains on one with weight 0, so that all ranks go the same way.
            mine = rows[lo:hi] if share or self.seed is None else rows[:1]
            self.position += 1  # before the batch is handed out: a checkpoint after it must not repeat it
            yield Batch(self.table.fields[mine], self.table.y[mine].float(), share=share)

    def _order(self) -> torch.Tensor:
        if self.seed is None:
            return torch.arange(len(self.table))
        generator = np.random.default_rng([self.seed, self.epoch])
        return torch.from_numpy(generator.permutation(len(self.table)))
