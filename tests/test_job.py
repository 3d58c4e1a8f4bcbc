"""One job: what it writes, exact resume, selection, stages, and that every option is read."""

from __future__ import annotations

import json
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from conftest import CONF, write_dataset
from seqmtl import job
from seqmtl.errors import SeqmtlError
from seqmtl.metrics import TaskMetrics
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


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the job may tidy up."""


MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if "\nrunner:" not in path.read_text())


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] * (m != "single_task")) for m in MODELS])
def test_a_job_cut_off_three_times_ends_as_an_undisturbed_one(
    plan: Any, with_histories: list[str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqmtl.lit import Lit

    storage = "memory" if model == "apem" else "disk"
    options = (f"model={model}", *with_histories, "trainer.checkpoint_every=5", f"dataset.storage={storage}", "trainer.workers=2")
    whole = plan(*options, name="whole")
    expected = job.run(whole)
    cut = plan(*options, name="cut")
    real = Lit.training_step
    monkeypatch.setattr(job, "_failed", lambda *_: None)
    for at in (3, 17, 29):  # before the first checkpoint, in the second epoch, in the third

        def step(self: Any, batch: Any, batch_idx: int, at: int = at) -> None:
            if self.global_step == at:
                raise Killed
            real(self, batch, batch_idx)

        monkeypatch.setattr(Lit, "training_step", step)
        with pytest.raises(Killed):
            job.run(cut)
        assert Run(cut).status()["state"] == "running"
    monkeypatch.setattr(Lit, "training_step", real)
    assert job.run(cut) == expected
    assert (cut / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert (cut / "test_logits.npy").read_bytes() == (whole / "test_logits.npy").read_bytes()


@pytest.mark.parametrize(
    "where",
    [
        "seqmtl.checkpoint.Selection.on_validation_end",
        "seqmtl.checkpoint.LastCheckpoint._save",
        "seqmtl.stage.Stage.test",
        "seqmtl.tracking.Tracker.end",
        "seqmtl.runs.Run.write_status",
    ],
)
@pytest.mark.parametrize("after", [pytest.param(False, marks=pytest.mark.slow), True], ids=["before", "after"])
def test_a_job_cut_off_anywhere_ends_the_same_with_one_mlflow_run(
    plan: Any, where: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = job.run(plan("model=mmoe", name="whole"))
    cut = plan("model=mmoe", name="cut")
    module, _, name = where.rpartition(".")
    real = getattr(pkgutil.resolve_name(module), name)
    calls = []

    def die(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        # Run.write_status is also how a run begins: its second call says that it is finished.
        fatal = len(calls) == 2 or where.endswith((".test", ".end"))
        if not fatal or after:
            result = real(*args, **kwargs)
        if fatal:
            raise Killed
        return result

    with monkeypatch.context() as patched:
        patched.setattr(where, die)
        patched.setattr(job, "_failed", lambda *_: None)
        with pytest.raises(Killed):
            job.run(cut)
    assert job.run(cut) == expected
    assert Run(cut).status()["state"] == "finished"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{cut.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "val/auc/click")
    assert len({m.step for m in history}) == len(history) == 3, "no point twice"


def test_a_full_disk_is_told_in_words(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    run_dir = plan("model=mmoe")
    real = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith(".last.ckpt"):
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, mode, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(SeqmtlError, match=r"could not write .*last\.ckpt.*: no space left on the disk; make room there"):
            job.run(run_dir)
    assert not list(run_dir.glob("*.tmp"))
    assert not list(run_dir.glob(".*.tmp"))
    assert "no space left" in Run(run_dir).status()["error"]


def test_a_finished_run_on_other_data_is_repeated(tmp_path: Path, dataset: Path, plan: Any) -> None:
    """Also through the command line's own path: the config that is run is the new one."""
    from seqmtl.plan import Planned
    from seqmtl.sweep import claim

    run_dir = plan("model=mmoe")
    before = job.run(run_dir)
    elsewhere = write_dataset(tmp_path / "other" / "aliccp_sim", seed=5)
    config = job.read_config(run_dir) | {"data_dir": str(elsewhere.parent)}
    planned = Planned(config, Run(run_dir))
    assert claim(planned), "there is something to do"
    assert job.run(run_dir) != before
    assert (run_dir / "attempt-1" / "metrics.json").exists()
    assert job.read_config(run_dir)["data_dir"] == str(elsewhere.parent)
    assert not claim(planned)


@pytest.mark.slow
def test_a_process_killed_three_times_ends_as_an_undisturbed_one(plan: Any) -> None:
    options = ("model=aitm", "trainer.max_epochs=6", "trainer.patience=6", "batch_size=2", "trainer.checkpoint_every=20")
    whole, cut = plan(*options, name="whole"), plan(*options, name="cut")
    expected = job.run(whole)
    command = [sys.executable, "-m", "seqmtl.job", str(cut)]
    for epoch in (1, 2, 4):
        process = subprocess.Popen(command)
        for _ in range(600):
            time.sleep(0.05)
            log = cut / "job.log"
            if log.exists() and f"epoch {epoch}/6" in log.read_text():
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (cut / "metrics.json").exists(), "killed too late to show anything"
    subprocess.run(command, check=True)
    assert json.loads((cut / "metrics.json").read_text()) == expected
    assert (cut / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


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


def test_a_failed_run_says_why_and_starts_anew(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.steps.plain import Plain

    run_dir = plan("model=mmoe")

    def broken(*_: Any) -> Any:
        raise ValueError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(Plain, "__call__", broken)
        with pytest.raises(ValueError, match="out of luck"):
            job.run(run_dir)
    assert Run(run_dir).status()["state"] == "failed"
    assert Run(run_dir).status()["error"] == "ValueError: out of luck"
    assert "Traceback" in (run_dir / "error.txt").read_text()
    job.run(run_dir)
    assert Run(run_dir).status()["state"] == "finished"
    assert (run_dir / "attempt-1" / "error.txt").exists()
    assert not (run_dir / "error.txt").exists()


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


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("loss=calibrated", "dataset.tasks=[click]"), "the calibrator needs .* click is alone"),
        (("model=aitm", "loss=bce", "dataset.tasks=[click]"), "AITM needs .* click is alone"),
        (("+model.trunk.colour=1",), "cannot build 'shared_bottom'.*colour"),
        (("optimizer.decay=[{match: nothing_like_it, value: 1}]",), "'nothing_like_it' matches no parameter; they are"),
        (("optimizer.lr=-1",), "cannot build 'adam'.*learning rate"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(plan: Any, overrides: tuple[str, ...], says: str) -> None:
    run_dir = plan(*overrides)
    with pytest.raises(SeqmtlError, match=says):
        job.run(run_dir)
    assert Run(run_dir).status()["state"] == "failed"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.precision=16-mixed", "trainer.precision must be one of 32-true, tf32, bf16-mixed"),
        ("model.selection=best", "model.selection must be one of sum, each"),
        ("trainer.accelerator=quantum", "trainer.accelerator must be one of cpu, gpu"),
        ("trainer.progress=loud", "trainer.progress must be one of"),
        ("trainer.max_batches=0", "trainer.max_batches must be an integer of at least 1 or null, not 0"),
        ("trainer.log_every=0", "trainer.log_every must be an integer of at least 1"),
        ("trainer.checkpoint_every=0", "trainer.checkpoint_every must be an integer of at least 1"),
        ("trainer.devices=auto", "trainer.devices must be an integer of at least 1, not 'auto'"),
        ("dataset.tasks=click", r"dataset\.tasks must be a list: dataset\.tasks=\[click\]"),
        ("dataset.tasks=[]", r"dataset\.tasks is empty"),
    ],
)
def test_a_config_that_cannot_run_is_refused_before_it_starts(plan: Any, override: str, says: str) -> None:
    from seqmtl.plan import check

    with pytest.raises(SeqmtlError, match=says):
        check(job.read_config(plan(override)))


class Needy(torch.nn.Module):
    """A loss that wants what no head here gives."""

    needs = frozenset({"imputed_error"})


def test_a_wrong_pair_is_refused_before_any_data_are_read(plan: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.plan import check

    monkeypatch.setenv("SEQMTL_ALLOW", __name__)

    shutil.rmtree(dataset)
    config = job.read_config(plan("model=mmoe"))
    config["loss"] = {"name": "needy", "_target_": f"{__name__}.Needy", "_partial_": True}
    with pytest.raises(SeqmtlError, match=r"loss=needy needs imputed_error, which model=mmoe does not provide .*loss=bce works"):
        check(config)


def test_a_model_that_diverges_says_so(plan: Any) -> None:
    with pytest.raises(SeqmtlError, match="diverged"):
        job.run(plan("model=mmoe", "optimizer.lr=1e30"))


class Seen(dict):  # type: ignore[type-arg]
    """A config that remembers which of its leaves were asked for."""

    def __init__(self, content: dict[str, Any], path: str = "", seen: set[str] | None = None) -> None:
        self.path, self.seen = path, set() if seen is None else seen
        super().__init__({k: Seen(v, f"{path}{k}.", self.seen) if isinstance(v, dict) else v for k, v in content.items()})

    def __getitem__(self, key: str) -> Any:
        self.seen.add(self.path + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(self.path + key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.seen.add(self.path + key)
        return super().pop(key, *default)

    def __deepcopy__(self, memo: dict[int, Any]) -> Seen:
        return Seen(dict(self.items()), self.path, self.seen)


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            # A class takes all its arguments or refuses them (test_cli: an unknown one).
            yield from () if "_target_" in value else leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_option_is_read(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl import stage
    from seqmtl.plan import check

    real = stage.Selection
    # A checkpoint takes a plain config only.
    monkeypatch.setattr(stage, "Selection", lambda *args: real(*args[:4], {}))
    run_dir = plan("model=single_task")
    config = Seen(job.read_config(run_dir))
    monkeypatch.setattr(job, "read_config", lambda _: config)
    check(config)
    job.run(run_dir)
    elsewhere = {
        "raw_dir",  # prepare
        "debug",  # cli.py, on Hydra's own config
        "allow",  # cli.py
        "dataset.about",  # only where the data are not prepared (test_table)
        # batch_size, prepare.simulate.rates, trunks and losses take them by interpolation
        *("dataset.batch_size", "dataset.rates", "dataset.profile", "dataset.transfer"),
    }
    groups = ("trainer", "optimizer", "step", "launcher")  # their names are shown by --cfg job and logged
    unread = set(leaves(config)) - config.seen - elsewhere - {f"{g}.name" for g in groups}
    assert not unread


def test_task_metrics_are_those_of_the_schema() -> None:
    """The names in metrics.json are the contract with MLflow and the tables."""
    from seqmtl.types import Field, Schema, Task

    schema = Schema((Field("a", 2),), (Task("click"), Task("purchase", "click")))
    metrics = TaskMetrics(schema, 4, given=True)
    metrics.update(torch.tensor([[0.1, -1], [2.0, 1], [-1, -2], [0.5, 0.2]]), torch.tensor([[1, 0], [1, 1], [0, 0], [0, 0]]))
    names = {f"{m}/{t}" for m in ("auc", "logloss", "pcoc") for t in ("click", "purchase")} | {"auc_given/purchase"}
    assert metrics.compute().keys() == names
