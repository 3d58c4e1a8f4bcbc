"""On simulated logs, whose truth depends on histories, reading them helps; and no model is better than the truth."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from test_cli import seqmtl

ROWS = "dataset.prepare.simulate.rows=120000"
SIZES = ("model.dim=16", "model.trunk.dims=[64,32]", "model.trunk.tower_dims=[]", "batch_size=256", "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("simulated")
    done = seqmtl(place, "prepare", "dataset=tenrec_sim", ROWS)
    assert done.returncode == 0, done.stderr
    return place / "data"


@pytest.mark.slow
def test_histories_help_as_far_as_the_truth_allows(tmp_path: Path, simulated: Path, compose: Any, mlflow_database: Path) -> None:
    """The same trunk without histories, with the mean of one, and with all of them, each read by a Transformer (DMT)."""
    from seqmtl import job

    aucs: dict[str, dict[str, float]] = {}
    for name, bottom in (("without", "flat"), ("mean", "pool"), ("dmt", "dmt")):
        run_dir = tmp_path / name / "run"
        run_dir.mkdir(parents=True)
        shutil.copy(mlflow_database, run_dir.parent)
        options = ("model=dmt", f"model/bottom={bottom}", "dataset=tenrec_sim", ROWS, *SIZES, "trainer.progress=none")
        config = compose(*options) | {"data_dir": str(simulated), "output_dir": str(run_dir.parent)}
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        metrics = job.run(run_dir)
        assert np.isfinite(np.load(run_dir / "test_logits.npy")).all()
        aucs[name] = {task: metrics[f"test/auc/{task}"] for task in config["dataset"]["tasks"]}
    directory = simulated / "tenrec_sim"
    labels = pl.read_parquet(sorted((directory / "test").glob("*.parquet")))
    both = labels.join(pl.read_parquet(directory / "oracle" / "test.parquet"), on="_row", suffix="_true")
    assert aucs["without"]["click"] + 0.005 < aucs["mean"]["click"] < aucs["dmt"]["click"] - 0.01, aucs
    for task, without in aucs["without"].items():
        positives = both[task].sum()
        oracle = roc_auc_score(both[task].to_numpy(), both[f"{task}_true"].to_numpy())
        error = math.sqrt(oracle * (1 - oracle) / positives)  # of an AUC, from above (van Dantzig)
        assert aucs["dmt"][task] > without, (task, aucs)
        assert all(aucs[name][task] < oracle + error for name in aucs), (task, aucs, oracle)
