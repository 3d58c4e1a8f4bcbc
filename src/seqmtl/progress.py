"""How far a training is: a bar on a terminal, plain lines elsewhere and in job.log."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger("seqmtl")

SECONDS_BETWEEN_LINES = 20.0


@contextlib.contextmanager
def job_log(run_dir: Path, rank: int = 0) -> Iterator[None]:
    """Plain lines of progress in RUN_DIR/job.log, whatever the terminal shows; of the first rank, which has made the way clear."""
    log.setLevel(logging.INFO)
    if rank != 0:
        yield
        return
    handler = logging.FileHandler(run_dir / "job.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class Progress:
    """Shows one training.

    Args:
        style: auto (a bar where standard output is a terminal, else lines) | bar | lines | none (job.log still gets its lines).
        rows: training rows of an epoch, for rows per second.
        max_epochs: shown beside the epoch.
        prefix: name of the stage, where there are several.
    """

    def __init__(self, style: str, rows: int, max_epochs: int, prefix: str = "") -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.rows = rows
        self.max_epochs = max_epochs
        self.prefix = prefix
        self.batches = 1
        self.epoch = 0
        self.started = self.spoken = time.monotonic()
        self.first_batch = 0
        self.bar: Progress | None = None
        if style == "bar" or (style == "auto" and sys.stdout.isatty()):
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
            self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
            self.task = self.bar.add_task("starting", total=1, note="")
            self.bar.start()

    def epoch_started(self, epoch: int, batches: int, done: int) -> None:
        self.epoch, self.batches, self.first_batch = epoch, batches, done
        self.started = self.spoken = time.monotonic()
        if self.bar is not None:
            self.bar.reset(self.task, description=self._epoch(), total=batches, completed=done)

    def trained(self, values: Mapping[str, float], step: int, batch: int) -> None:
        now = time.monotonic()
        speed = (batch - self.first_batch) / self.batches * self.rows / max(now - self.started, 1e-9)
        note = f"loss {values.get('train/loss', float('nan')):.4f}  {speed:,.0f} rows/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=batch, note=note)
        if now - self.spoken > SECONDS_BETWEEN_LINES:
            self.spoken = now
            log.info("%s  batch %d/%d  %s", self._epoch(), batch, self.batches, note)

    def validated(self, values: Mapping[str, float | None], step: int, epoch: int) -> None:
        aucs = [
            f"{name.rpartition('/')[2]} {'undefined' if value is None else f'{value:.4f}'}"
            for name, value in values.items()
            if "/auc/" in name
        ]
        seconds = time.monotonic() - self.started
        log.info("%s  %.1f s  validation AUC: %s", self._epoch(), seconds, ", ".join(aucs))

    def _epoch(self) -> str:
        return f"{self.prefix}epoch {self.epoch + 1}/{self.max_epochs}"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
