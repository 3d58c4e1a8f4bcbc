"""Where a run lies, and what is done with what lies there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqmtl import lock
from seqmtl.errors import SeqmtlError
from seqmtl.launch.command import BUSY
from seqmtl.runs import Run, config_hash, differences, run_directory, settings_of, told_apart, with_settings


def test_the_hash_counts_what_changes_the_result(compose: Any) -> None:
    base = config_hash(compose())
    same = ["seed=7", "data_dir=/x", "output_dir=/y", "debug=true", "trainer=gpu", "trainer.threads=2", "trainer.log_every=1"]
    same += [
        "dry_run=true",
        "trainer.checkpoint_every=9",
        "trainer.progress=none",
        "optimizer.lr=0.0010",
        "dataset.prepare.min_count=3",
    ]
    for override in same:
        assert config_hash(compose(override)) == base, override
    for override in ("optimizer.lr=0.01", "batch_size=1", "trainer.max_epochs=3", "dataset.tasks=[click]"):
        assert config_hash(compose(override)) != base, override


@pytest.mark.parametrize("model", ["mmoe", "lightgbm"])
def test_settings_and_what_is_hashed_make_the_whole_config(compose: Any, model: str) -> None:
    places = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.threads=2", "data_dir=/x", "dataset.prepare.min_count=3", "seed=2"]
    here, there = compose(f"model={model}"), compose(f"model={model}", *places)
    assert with_settings(here, settings_of(there)) == there
    assert with_settings(there, settings_of(here)) == here
    del there["allow"]
    assert with_settings(here, settings_of(there)) == there, "what the other does not have is taken out"


def test_the_directory_tells_dataset_model_loss_and_seed(compose: Any) -> None:
    config = compose("model=aitm", "seed=3", "output_dir=/o")
    path = run_directory(config)
    assert path.parent.parent == Path("/o/aliccp_sim")
    assert path.parent.name == f"aitm-calibrated-{config_hash(config)}"
    assert path.name == "seed=3"


def test_one_process_holds_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    with Run(tmp_path).lock(), pytest.raises(SeqmtlError, match="another process is running"), Run(tmp_path).lock():
        pass
    with Run(tmp_path).lock():
        pass


def fill(run: Run, state: str, version: str = "v1") -> None:
    (run.path / "config.yaml").write_text("a: 1\n")
    (run.path / "last.ckpt").write_text("x")
    run.write_status(state, data_version=version)


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_run_that_was_cut_off_keeps_its_files(tmp_path: Path, state: str) -> None:
    run = Run(tmp_path)
    fill(run, state)
    run.ready("v1")
    assert (tmp_path / "last.ckpt").exists()


def test_an_interruption_from_outside_keeps_the_version_of_the_data(tmp_path: Path) -> None:
    run = Run(tmp_path)
    fill(run, "running")
    run.write_status("interrupted", reason="time limit of 2 h")
    assert run.status()["reason"] == "time limit of 2 h"
    run.ready("v1")
    assert run.state("v1") == "interrupted"
    assert (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("said", "metrics", "state", "on_other_data"),
    [
        ("running", "", "interrupted", "new"),
        ("interrupted", "", "interrupted", "new"),
        ("failed", "", "failed", "failed"),
        ("finished", '{"test/auc/click": 0.5}', "finished", "new"),
        ("finished", "", "interrupted", "new"),
        ("finished", "[0.5]", "interrupted", "new"),
        ("", "", "new", "new"),
    ],
)
def test_the_state_of_a_run_that_nobody_holds(tmp_path: Path, said: str, metrics: str, state: str, on_other_data: str) -> None:
    run = Run(tmp_path)
    assert run.state("v1") == "new"
    fill(run, said)
    (tmp_path / "metrics.json").write_text(metrics)
    assert run.state("v1") == run.state() == state
    assert run.state("v2") == on_other_data
    assert run.finished("v1") == (state == "finished")
    with run.lock():
        assert run.state("v1") == run.state("v2") == "running"
        holder = run.held()
        assert holder is not None
        assert holder.purpose == "training"
    (tmp_path / "status.json").write_text('{"state": "runn')
    assert run.state("v1") == "new"


@pytest.mark.parametrize(("state", "version"), [("failed", "v1"), ("finished", "v0"), ("running", "v0")])
def test_a_failed_run_or_one_on_other_data_starts_anew(tmp_path: Path, state: str, version: str) -> None:
    run = Run(tmp_path)
    for attempt in (1, 2):
        fill(run, state, version)
        run.ready("v1")
        assert not (tmp_path / "last.ckpt").exists()
        assert (tmp_path / f"attempt-{attempt}" / "last.ckpt").exists()
        assert (tmp_path / "config.yaml").exists()


def test_a_process_that_ends_between_two_looks_is_not_taken_for_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    fill(run, "running")

    def ends(self: Run, now: float | None = None) -> None:
        if self.status()["state"] == "running":
            (tmp_path / "metrics.json").write_text('{"test/auc/click": 0.5}')
            self.write_status("finished")

    monkeypatch.setattr(Run, "held", ends)
    assert run.state("v1") == "finished"


def test_finished_means_metrics_on_these_data(tmp_path: Path) -> None:
    run = Run(tmp_path)
    fill(run, "finished")
    assert not run.finished("v1"), "no metrics.json"
    (tmp_path / "metrics.json").write_text('{"test/auc/click": 0.5}')
    assert run.finished("v1")
    assert not run.finished("v2")
    (tmp_path / "status.json").write_text('{"state": "fin')
    assert not run.finished("v1")


def test_a_kill_while_files_move_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    """Half of a finished run's files moved away: the checkpoint that is left must not be taken for one to resume from."""
    run = Run(tmp_path)
    fill(run, "finished", "v0")
    (tmp_path / "status.json").unlink()
    run.ready("v1")
    assert not (tmp_path / "last.ckpt").exists()


def test_runs_of_one_label_are_told_apart_by_what_differs(compose: Any) -> None:
    def told(*overrides: str) -> list[str]:
        return differences([compose("model=dmt", o) for o in overrides])

    assert told("model/trunk=mmoe", "model/trunk=ple") == ["trunk=mmoe", "trunk=ple"]
    assert told("model.dim=8", "model.dim=16") == ["dim=8", "dim=16"]
    assert told("seed=1", "seed=2") == ["", ""]
    assert told("dataset.tasks=[click]", "dataset.tasks=[click,buy]") == ["tasks=['click']", "tasks=['click', 'buy']"]


def test_labels_say_what_differs_where_two_are_alike(compose: Any) -> None:
    configs = [compose(*o) for o in (["model=aitm"], ["model=dmt", "model.dim=8"], ["model=dmt", "model.dim=16"])]
    assert told_apart(configs) == ["aitm/calibrated", "dmt/bce dim=8", "dmt/bce dim=16"]


@pytest.mark.slow
def test_of_two_processes_of_one_job_one_runs_it_and_the_other_spoils_nothing(plan: Any) -> None:
    run_dir = plan("model=mmoe", "trainer.max_epochs=8", "trainer.patience=8", "batch_size=2")
    command = [sys.executable, "-m", "seqmtl.job", str(run_dir)]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = [process.communicate(timeout=500)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, BUSY]
    assert f"another process is running {run_dir} (process {both[codes.index(0)].pid} on" in said[codes.index(BUSY)]
    assert Run(run_dir).state() == "finished"
    assert not (run_dir / "error.txt").exists()
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent}/mlflow.db")
    assert len(client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])) == 1
