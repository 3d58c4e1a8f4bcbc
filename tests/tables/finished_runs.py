"""Run directories as finished jobs leave them, with predictions made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.journal import Journal
from seqmtl.plan import Planned


def test_labels(directory: Path, tasks: list[str]) -> NDArray[np.int8]:
    """(N,T), in the order of the shards."""
    frame = pl.read_parquet(sorted((directory / "test").glob("*.parquet")), columns=tasks)
    return frame.select(tasks).to_numpy().astype(np.int8)


test_labels.__test__ = False  # type: ignore[attr-defined]


def finish(job: Planned, logits: NDArray[np.floating], seconds: float = 2.0) -> None:
    """Leave what a finished job of these predictions (N,T) leaves."""
    assert job.run is not None
    directory, meta = open_dataset(job.config)
    tasks = job.config["dataset"]["tasks"]
    y = test_labels(directory, tasks)
    metrics: dict[str, float | None] = {"params": 1000.0, "params_mb": 0.004}
    for t, task in enumerate(tasks):
        p = 1 / (1 + np.exp(-np.asarray(logits[:, t], np.float64)))
        metrics |= {f"test/auc/{task}": roc_auc_score(y[:, t], p), f"test/logloss/{task}": log_loss(y[:, t], p)}
    path = job.run.path
    path.mkdir(parents=True)
    np.save(path / "test_logits.npy", np.asarray(logits, np.float32))
    (path / "metrics.json").write_text(json.dumps(metrics))
    journal = Journal(path)
    journal.begin({"key": path.name})
    journal.append([{"metric": "val/auc/click", "value": 0.6 + 0.01 * step, "step": step, "time": 0} for step in (1, 2)])
    (path / "job.log").write_text("2026-11-27 10:00:00 epoch 1\n2026-11-27 10:01:40 tested\n")
    job.run.write_config(job.config)
    job.run.write_finished(data_version(directory, meta), {"epoch_seconds": seconds, "test_seconds": 0.5})
