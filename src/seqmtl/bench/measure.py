"""The times of a config: the training loop, the bare loop of the same step, and inference.

Unusual: what is measured is a `Stage` as any run has it, under Lightning's trainer, with a clock among the callbacks. It only lacks
the selection and the checkpoints, which a job writes once in an epoch or in hundreds of steps.
"""

from __future__ import annotations

import copy
import itertools
import resource
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from seqmtl.data.meta import Meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.nn.table_gradients import clear_gradients
from seqmtl.stage import Stage
from seqmtl.trainer import lightning_trainer
from seqmtl.types import Batch


@dataclass(frozen=True)
class Timed:
    """Rows that went through, in how many steps and seconds."""

    rows: int
    steps: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def ms_per_step(self) -> float:
        return 1000 * self.seconds / self.steps


class Clock(L.Callback):
    """Times the training batches after the first `warm_up`, and a test from its start to its metrics.

    With a warm-up of 0 the time begins before the first batch is asked for, so that it is that of an epoch.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.started = self.stopped = 0.0
        self.rows = self.steps = 0

    def _start(self, trainer: L.Trainer) -> None:
        self.rows = self.steps = 0
        self.started = now(trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.warm_up:
            self._start(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.rows, self.steps = self.rows + len(batch), self.steps + 1
        if batch_idx + 1 == self.warm_up:
            self._start(trainer)
        elif batch_idx + 1 == trainer.num_training_batches:  # the validation follows within the epoch
            self.stopped = now(trainer.strategy.root_device)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start(trainer)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.rows, self.steps = self.rows + len(batch), self.steps + 1

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stopped = now(trainer.strategy.root_device)

    @property
    def timed(self) -> Timed:
        return Timed(self.rows, self.steps, self.stopped - self.started)


def now(device: torch.device) -> float:
    """Seconds of a clock, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Measured:
    """A fresh training of a config: time its loop, then its inference.

    Args:
        config: resolved, of one process.
        directory, meta: the prepared dataset.
        batches: of the training, after `warm_up` others; None: all that the rows have.
    """

    def __init__(
        self, config: Mapping[str, Any], directory: Path, meta: Meta, warm_up: int = 0, batches: int | None = None
    ) -> None:
        self.config = copy.deepcopy(dict(config))
        most = None if batches is None else warm_up + batches
        self.config["trainer"] |= {"max_epochs": 1, "max_batches": most, "progress": "none"}
        schema = chosen_schema(self.config, meta)
        self.stage = Stage(self.config, Path(tempfile.gettempdir()), directory, meta, schema)  # without callbacks it writes nothing
        self.warm_up = warm_up
        self.clock = Clock(warm_up)
        self.stage.trainer = lightning_trainer(self.config["trainer"], [self.clock], 1)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.stage.trainer.strategy.root_device
        return device

    def train(self) -> Timed:
        """The loop as any run has it."""
        self.stage.trainer.fit(self.stage.lit, datamodule=self.stage.data)
        return self.clock.timed

    def predict(self) -> Timed:
        """The test split through the model: log-odds of all rows and their metrics."""
        self.stage.trainer.test(self.stage.lit, dataloaders=self.stage.data.test_dataloader(), verbose=False)
        return self.clock.timed

    def bare(self) -> Timed:
        """The same step without a trainer, over batches that were made beforehand and lie on the device."""
        lit, device = self.stage.lit.to(self.device).train(), self.device
        stream = self.stage.data.train_dataloader()
        batches = [batch.to(device) for batch in itertools.islice(stream, self.config["trainer"]["max_batches"])]
        optimizer, trained = lit.configure_optimizers(), [p for p in lit.parameters() if p.requires_grad]
        half = self.config["trainer"]["precision"] == "bf16-mixed"
        started = now(device)
        for number, batch in enumerate(batches):
            if number == self.warm_up:
                started = now(device)
            clear_gradients(trained)
            with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
                lit.step(lit.model, lit.loss, batch)
            optimizer.step()
        seconds = now(device) - started
        timed = batches[self.warm_up :]
        return Timed(sum(map(len, timed)), len(timed), seconds)


def peak_mb() -> float:
    """The most resident memory that this process has had, in MB."""
    try:
        # ru_maxrss survives exec: a child's would never be below its parent's.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def device_peak_mb(device: torch.device) -> float | None:
    """The most memory of tensors on a GPU, in MB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
