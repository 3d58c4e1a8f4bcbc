"""A job that was cut off, failed or belongs to other data: it goes on where that is exact, and starts anew where it is not."""

from __future__ import annotations

import json
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import CONF, write_dataset
from seqmtl import job
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


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
