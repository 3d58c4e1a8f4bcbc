"""One job: what it writes, selection, stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from conftest import write_dataset
from seqmtl import job
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_what_a_run_leaves(plan: Any, dataset: Path) -> None:
    run_dir = plan("model=aitm")
    metrics = job.run(run_dir)
    assert metrics == json.loads((run_dir / "metrics.json").read_text())
    assert json.loads((run_dir / "status.json").read_text())["state"] == "finished"
    for name in ("config.yaml", "best.ckpt", "last.ckpt", "test_logits.npy", "mlflow_run_id", "job.log"):
        assert (run_dir / name).exists(), name
    assert not list(run_dir.glob("*.tmp"))
    logits = np.load(run_dir / "test_logits.npy")
    assert logits.dtype == np.float32
    assert logits.shape == (300, 2)
    import polars as pl

    y = pl.concat([pl.read_parquet(p) for p in sorted((dataset / "test").glob("*.parquet"))]).select("click", "purchase")
    from sklearn.metrics import log_loss, roc_auc_score

    for t, task in enumerate(("click", "purchase")):
        assert metrics[f"test/auc/{task}"] == pytest.approx(roc_auc_score(y[task], logits[:, t]), abs=1e-12)
        p = 1 / (1 + np.exp(-logits[:, t].astype(float)))
        assert metrics[f"test/logloss/{task}"] == pytest.approx(log_loss(y[task], p), rel=1e-9)
        assert metrics[f"test/pcoc/{task}"] == pytest.approx(p.mean() / y[task].mean(), rel=1e-9)
    best = torch.load(run_dir / "best.ckpt", weights_only=True)
    assert best["config"]["model"]["name"] == "aitm"
    assert job.run(run_dir) == metrics, "finished: read, not run"


def test_the_same_seed_gives_the_same_bits_and_another_does_not(plan: Any) -> None:
    one, two, other = (plan("model=aitm", f"seed={s}", name=n) for s, n in ((1, "a"), (1, "b"), (2, "c")))
    metrics = [job.run(r) for r in (one, two, other)]
    assert metrics[0] == metrics[1]
    assert (one / "test_logits.npy").read_bytes() == (two / "test_logits.npy").read_bytes()
    assert metrics[0]["train/loss"] != metrics[2]["train/loss"]


def test_two_models_with_one_seed_see_the_same_rows(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.steps.plain import Plain

    seen: list[list[int]] = []
    real = Plain.__call__

    def spy(self: Any, model: Any, loss: Any, batch: Any) -> Any:
        seen[-1].extend(batch.fields[:, 0].tolist())
        return real(self, model, loss, batch)

    monkeypatch.setattr(Plain, "__call__", spy)
    for model in ("aitm", "shared_bottom"):
        seen.append([])
        job.run(plan(f"model={model}", "trainer.max_epochs=2", name=model))
    assert seen[0] == seen[1]


def test_training_stops_by_the_rule_and_a_stopped_run_trains_no_further(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.6, 0.7, 0.65, 0.66, 0.9])
    monkeypatch.setattr("seqmtl.checkpoint.selection_score", lambda metrics, tasks: next(scores))
    run_dir = plan("model=mmoe", "trainer.max_epochs=9", "trainer.patience=2")
    job.run(run_dir)
    best = torch.load(run_dir / "best.ckpt", weights_only=True)
    assert best["epoch"] == 1, "the best epoch, not the last"
    assert next(scores) == 0.9, "two epochs without a better score, then the end"
    # Killed after the stop, before the test: the same command tests, and trains no epoch more.
    before = (run_dir / "metrics.json").read_bytes()
    (run_dir / "metrics.json").unlink()
    Run(run_dir).write_status("running", data_version=Run(run_dir).status()["data_version"])
    job.run(run_dir)
    assert (run_dir / "metrics.json").read_bytes() == before


def test_selection_each_takes_each_task_from_its_own_best_epoch(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    by_task = {"click": iter([0.9, 0.1, 0.1]), "purchase": iter([0.1, 0.2, 0.9])}
    monkeypatch.setattr("seqmtl.checkpoint.selection_score", lambda metrics, tasks: next(by_task[tasks[0]]))
    run_dir = plan("model=single_task")
    metrics = job.run(run_dir)
    checkpoints = {t: torch.load(run_dir / f"best.{t}.ckpt", weights_only=True) for t in by_task}
    assert {t: c["epoch"] for t, c in checkpoints.items()} == {"click": 0, "purchase": 2}
    for task in by_task:
        assert metrics[f"val/auc/{task}"] == checkpoints[task]["metrics"][f"val/auc/{task}"]
    # Column t of the logits comes from the t-th checkpoint.
    config = job.read_config(run_dir)
    from seqmtl.build import build
    from seqmtl.data.prepared import chosen_schema, open_dataset
    from seqmtl.data.shards import Shards
    from seqmtl.data.stream import Stream

    directory, meta = open_dataset(config)
    schema = chosen_schema(config, meta)
    batch = next(iter(Stream(Shards(directory, meta, schema, "test"), 300)))
    logits = np.load(run_dir / "test_logits.npy")
    for t, task in enumerate(by_task):
        model = build(config["model"], schema=schema).eval()
        weights = checkpoints[task]["state_dict"]
        model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
        with torch.no_grad():
            assert np.allclose(model(batch).logits[:, t], logits[:, t], atol=1e-6)


def test_the_test_split_is_read_once_and_after_selection(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl import datamodule

    read: list[str] = []
    real = datamodule.Shards
    monkeypatch.setattr(datamodule, "Shards", lambda *a: (read.append(a[3]), real(*a))[1])
    job.run(plan("model=single_task"))
    assert read == ["train", "valid", "test"] or read == ["valid", "train", "test"]


def test_stages_follow_each_other(plan: Any, compose: Any) -> None:
    """Weights pass by name, what is new starts fresh, metrics of the earlier stage carry its name."""
    run_dir = plan("model=mmoe")
    config = job.read_config(run_dir)
    loss = compose("model=mmoe", "loss=bce")["loss"]
    config["model"]["stages"] = {"warm": {"loss": loss, "trainer": {"max_epochs": 1}}, "main": {"optimizer": {"lr": 0.0}}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = job.run(run_dir)
    assert {"warm/val/auc/click", "val/auc/click", "test/auc/click"} <= metrics.keys()
    # A learning rate of 0: the second stage ends where it began, at the first one's weights.
    assert metrics["val/auc/click"] == metrics["warm/val/auc/click"]
    warm = torch.load(run_dir / "warm" / "best.ckpt", weights_only=True)["state_dict"]
    main = torch.load(run_dir / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(warm[k], main[k]) for k in warm)


def test_one_class_only_is_null_and_no_crash(tmp_path: Path, plan: Any, dataset: Path) -> None:
    shutil.rmtree(dataset)
    write_dataset(dataset, rows={"train": 200, "valid": 100, "test": 3}, seed=3)
    import polars as pl

    for split in ("valid", "test"):
        for shard in (dataset / split).glob("*"):
            pl.read_parquet(shard).with_columns(purchase=pl.lit(0, pl.Int8)).write_parquet(shard)
    metrics = job.run(plan("model=mmoe"))
    assert metrics["val/auc/purchase"] is None
    assert metrics["test/auc/purchase"] is None
    assert '"test/auc/purchase": null' in (tmp_path / "run" / "run" / "metrics.json").read_text()


def test_a_model_that_diverges_says_so(plan: Any) -> None:
    with pytest.raises(SeqmtlError, match="diverged"):
        job.run(plan("model=mmoe", "optimizer.lr=1e30"))
