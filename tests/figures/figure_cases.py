"""A run that is finished without having been trained: fresh weights, and what a run directory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqmtl.data.meta import data_version
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.datamodule import DataModule
from seqmtl.runs import Run
from seqmtl.stage import make_parts


def finish(config: dict[str, Any], run_dir: Path, loud: float = 60.0) -> Path:
    """Write a run directory of a model with fresh weights, `loud` times as large as they start, so that rows differ."""
    directory, meta = open_dataset(config)
    schema = chosen_schema(config, meta)
    torch.manual_seed(0)
    model, _, _ = make_parts(config, schema, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name or ".ait." in name:
                parameter.mul_(loud)
    reads = getattr(model, "histories", schema.history_names)
    model.eval()
    with torch.inference_mode():
        batches = DataModule(directory, meta, schema.read(reads), 50, 0).test_dataloader()
        logits = torch.cat([model(batch).logits for batch in batches])
    run_dir.mkdir(parents=True)
    run = Run(run_dir)
    run.write_config(config)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "config": config, "step": 0, "epoch": 0, "score": 1.0}, run_dir / "best.ckpt")
    np.save(run_dir / "test_logits.npy", logits.numpy())
    (run_dir / "metrics.json").write_text(json.dumps({"test/auc/click": 0.6, "params_mb": 0.1}))
    run.write_finished(data_version(directory, meta), {"epoch_seconds": 2.0, "test_seconds": 0.5, "train_rows_per_second": 300.0})
    return run_dir
