"""The one LightningDataModule: prepared shards → streams of batches for this rank."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as L

from seqmtl.data.meta import Meta
from seqmtl.data.stream import Stream
from seqmtl.data.table import load_table
from seqmtl.types import Schema

EVAL_ROWS = 8192  # rows of a batch where nothing is trained: large enough that the loop costs nothing, small in memory


class DataModule(L.LightningDataModule):
    """Streams of the three splits; a split is read when it is first asked for, so the test split only after selection.

    Args:
        directory: the prepared dataset; `meta`: its meta.json.
        schema: the fields and tasks to read.
        batch_size: global rows per training batch.
        seed: of the order of the training rows.
        rank, world_size: this process among those of the job.
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
    ) -> None:
        super().__init__()
        self.directory = directory
        self.meta = meta
        self.schema = schema
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def train_dataloader(self) -> Stream:
        return self._stream("train", self.batch_size, self.seed)

    def val_dataloader(self) -> Stream:
        return self._stream("valid", max(EVAL_ROWS, self.batch_size))

    def test_dataloader(self) -> Stream:
        return self._stream("test", max(EVAL_ROWS, self.batch_size))

    def _stream(self, split: str, batch_size: int, seed: int | None = None) -> Stream:
        table = load_table(self.directory, self.meta, self.schema, split)
        return Stream(table, batch_size, seed, self.rank, self.world_size)
