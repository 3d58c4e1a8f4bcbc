"""The one LightningDataModule: prepared shards → streams of batches for this rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as L
import torch

from seqmtl.data.downsample import SPLITS as THINNED
from seqmtl.data.downsample import Downsample
from seqmtl.data.histories import Histories
from seqmtl.data.meta import Meta
from seqmtl.data.resident import Resident, fits
from seqmtl.data.rows import Rows
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.types import Batch, Schema

EVAL_ROWS = 8192  # rows of a batch where nothing is trained: large enough that the loop costs nothing, small in memory


@dataclass(frozen=True)
class Reading:
    """How rows are read: from `memory` or `disk`, by how many workers, without some of the negatives, for which GPU."""

    storage: str = "memory"
    workers: int = 0
    downsample: Downsample | None = None
    gpu: torch.device | None = None


class DataModule(L.LightningDataModule):
    """Streams of the three splits; a split is read when it is first asked for, so the test split only after selection.

    Args:
        directory: the prepared dataset; `meta`: its meta.json.
        schema: the fields, tasks and histories to read.
        batch_size: global rows per training batch.
        seed: of the order of the training rows.
        rank, world_size: this process among those of the job.
        reading: how.
    """

    def __init__(
        self,
        directory: Path,
        meta: Meta,
        schema: Schema,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        reading: Reading | None = None,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.meta = meta
        self.schema = schema
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.reading = reading or Reading()
        self._opened: dict[str, Shards] = {}
        self.histories = Histories(directory, meta, schema) if schema.histories or schema.bags else None

    def train_dataloader(self) -> Stream:
        return self._stream("train", self.batch_size, self.seed)

    def val_dataloader(self) -> Stream:
        return self._stream("valid", max(EVAL_ROWS, self.batch_size))

    def test_dataloader(self) -> Stream:
        return self._stream("test", max(EVAL_ROWS, self.batch_size))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def rows(self) -> Mapping[str, int]:
        """Rows of each split, without the negatives that are left out."""
        if self.reading.downsample is None:
            return self.meta.rows
        return self.meta.rows | {split: len(self._shards(split)) for split in THINNED}

    def _shards(self, split: str) -> Shards:
        if split not in self._opened:  # once: what is left out is counted when it is opened
            downsample = self.reading.downsample if split in THINNED else None
            self._opened[split] = Shards(self.directory, self.meta, self.schema, split, downsample)
        return self._opened[split]

    def _stream(self, split: str, batch_size: int, seed: int | None = None) -> Stream:
        shards, gpu = self._shards(split), self.reading.gpu
        source: Rows | Shards = shards if self.reading.storage == "disk" else shards.load()
        if gpu is not None and isinstance(source, Rows) and self.histories is None and fits(source, gpu):
            return Resident(source, batch_size, seed, self.rank, self.world_size, gpu)
        return Stream(source, batch_size, seed, self.rank, self.world_size, self.reading.workers, self.histories)
