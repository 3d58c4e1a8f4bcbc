"""Raw files → shards → training → metrics, through the real command line; and models between chance and the truth."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from conftest import CONF
from seqmtl.data.prepared import chosen_schema, open_dataset
from test_cli import seqmtl

SMALL = ("dataset=aliccp_sim", "dataset.prepare.simulate.train_rows=5000", "dataset.prepare.simulate.test_rows=2000")
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if "_wo_" not in path.stem)  # without the ablations
KUAIRAND = Path(os.environ.get("SEQMTL_KUAIRAND_RAW", Path(__file__).parents[2] / "shared" / "data" / "kuairand"))


def test_the_main_job(tmp_path: Path) -> None:
    assert seqmtl(tmp_path, "prepare", *SMALL).returncode == 0
    done = seqmtl(tmp_path, *SMALL, "model=aitm", "experiment=aitm", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    for word in ("validation AUC", "test LogLoss", "click", "purchase", "the run lies in"):
        assert word in done.stdout
    (path,) = tmp_path.glob("outputs/aliccp_sim/aitm-calibrated-*/seed=1/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["params"] > 48_162, "experiment=aitm brings the paper's sizes: 48,162 and the embeddings"
    again = seqmtl(tmp_path, *SMALL, "model=aitm", "experiment=aitm", "trainer.max_epochs=1")
    assert "finished before, nothing to do" in again.stdout
    other = seqmtl(tmp_path, "dataset=aliccp_sim", "model=aitm")
    assert other.returncode == 1
    assert "made with other options" in other.stderr
    assert "seqmtl prepare dataset=aliccp_sim" in other.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("simulated")
    rows = ("dataset.prepare.simulate.train_rows=60000", "dataset.prepare.simulate.test_rows=20000")
    done = seqmtl(place, "prepare", "dataset=aliccp_sim", *rows)
    assert done.returncode == 0, done.stderr
    return place


Trained = Callable[..., tuple[dict[str, float | None], np.ndarray, Path]]


@pytest.fixture
def trained(tmp_path: Path, simulated: Path, compose: Any, mlflow_database: Path) -> Trained:
    """trained("model=mmoe", …) → metrics, test logits and the dataset's folder of a short run of the demonstration's sizes."""

    def make(*overrides: str) -> tuple[dict[str, float | None], np.ndarray, Path]:
        from seqmtl import job

        rows = ("dataset.prepare.simulate.train_rows=60000", "dataset.prepare.simulate.test_rows=20000")
        config = compose("experiment=demo", "dataset=aliccp_sim", *rows, "trainer.progress=none", *overrides)
        config |= {"data_dir": str(simulated / "data"), "output_dir": str(tmp_path)}
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        shutil.copy(mlflow_database, tmp_path)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        return job.run(run_dir), np.load(run_dir / "test_logits.npy"), open_dataset(config)[0]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_model_lies_between_chance_and_the_oracle(trained: Trained, model: str) -> None:
    """The oracle's AUC is the best that any model reaches on average; the mean prediction is near the rate."""
    metrics, logits, directory = trained(f"model={model}")
    truth = pl.read_parquet(directory / "oracle" / "test.parquet")
    labels = pl.read_parquet(sorted((directory / "test").glob("*.parquet")))
    for t, task in enumerate(("click", "purchase")):
        y = labels[task].to_numpy()
        oracle = roc_auc_score(y, truth[task].to_numpy())
        error = math.sqrt(oracle * (1 - oracle) / y.sum())  # of an AUC, from above (van Dantzig)
        auc = metrics[f"test/auc/{task}"]
        assert auc is not None
        assert 0.5 + error < auc < oracle + error, (task, auc, oracle)
        # Against the true probabilities: how many of the test rows convert is chance, and of no model's making. The level of a
        # network's predictions swings by a fifth from step to step at this batch and learning rate.
        expected = truth[task].to_numpy().mean()
        assert expit(logits[:, t]).mean() / expected == pytest.approx(1, abs=3 / math.sqrt(expected * len(y)) + 0.1)
    assert np.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["esmm", "escm2", "aitm"])
def test_chains_are_calibrated(trained: Trained, model: str) -> None:
    """At a lower learning rate, and without dropout (the demonstration's sizes), the mean prediction is the rate within a tenth."""
    _, logits, directory = trained(f"model={model}", "optimizer.lr=3e-4", "trainer.max_epochs=4")
    truth = pl.read_parquet(directory / "oracle" / "test.parquet")
    for t, (task, tolerance) in enumerate({"click": 0.1, "purchase": 0.1 + 1 / math.sqrt(440)}.items()):
        # 440 training rows have a purchase: their number alone is uncertain by 5 %. Clicks are 2,100.
        assert expit(logits[:, t]).mean() / truth[task].to_numpy().mean() == pytest.approx(1, abs=tolerance), task


@pytest.mark.data
@pytest.mark.skipif(not KUAIRAND.is_dir(), reason="needs a slice of KuaiRand-Pure (SEQMTL_KUAIRAND_RAW)")
def test_a_short_training_on_real_logs_learns(tmp_path: Path, compose: Any) -> None:
    from seqmtl.stage import Stage

    assert seqmtl(tmp_path, "prepare", "dataset=kuairand", f"raw_dir={KUAIRAND}").returncode == 0
    config = compose("model=mmoe", "dataset=kuairand", "trainer.max_epochs=1", "trainer.progress=none")
    config["data_dir"] = str(tmp_path / "data")
    directory, meta = open_dataset(config)
    stage = Stage(config, tmp_path, directory, meta, chosen_schema(config, meta))
    stage.fit()
    metrics, _ = stage.test()
    assert metrics["test/auc/click"] is not None
    assert metrics["test/auc/click"] > 0.70, "a logistic regression on the whole slice has about 0.727"
