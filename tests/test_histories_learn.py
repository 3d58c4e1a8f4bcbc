"""On simulated logs, whose truth depends on histories, reading them helps with new users; and no model is better than the truth.

Of a user who is in the training rows the id tells most of what the history tells (docs/results.md).
"""

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

DATA = ("dataset=tenrec_sim", "dataset.prepare.split=user_holdout", "dataset.prepare.simulate.rows=150000")
TRAINING = ("batch_size=256", "trainer.max_epochs=3", "trainer.progress=none", "trainer.threads=1")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("simulated")
    done = seqmtl(place, "prepare", *DATA)
    assert done.returncode == 0, done.stderr
    return place / "data"


@pytest.mark.slow
def test_histories_help_with_new_users_and_nothing_beats_the_truth(
    tmp_path: Path, simulated: Path, compose: Any, mlflow_database: Path
) -> None:
    """The same trunk without histories and with the mean of one."""
    from seqmtl import job

    aucs: dict[str, dict[str, float]] = {}
    for name, bottom in (("without", "flat"), ("mean", "pool")):
        run_dir = tmp_path / name / "run"
        run_dir.mkdir(parents=True)
        shutil.copy(mlflow_database, run_dir.parent)
        config = compose("model=dmt", f"model/bottom={bottom}", *DATA, *TRAINING) | {
            "data_dir": str(simulated),
            "output_dir": str(run_dir.parent),
        }
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        metrics = job.run(run_dir)
        assert np.isfinite(np.load(run_dir / "test_logits.npy")).all()
        aucs[name] = {task: metrics[f"test/auc/{task}"] for task in config["dataset"]["tasks"]}
    directory = simulated / "tenrec_sim"
    labels = pl.read_parquet(sorted((directory / "test").glob("*.parquet")))
    both = labels.join(pl.read_parquet(directory / "oracle" / "test.parquet"), on="_row", suffix="_true")
    assert aucs["without"]["click"] + 0.015 < aucs["mean"]["click"], aucs
    for task in aucs["mean"]:
        positives = both[task].sum()
        oracle = roc_auc_score(both[task].to_numpy(), both[f"{task}_true"].to_numpy())
        error = math.sqrt(oracle * (1 - oracle) / positives)  # of an AUC, from above (van Dantzig)
        assert all(aucs[name][task] < oracle + error for name in aucs), (task, aucs, oracle)
