"""`dry_run=true`: says what would become of each job, and touches nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, write_dataset
from seqmtl import preview, train
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.plan import Plan
from seqmtl.runs import Run
from test_cli import seqmtl


@pytest.fixture
def planned(tmp_path: Path, dataset: Path, compose: Any) -> Any:
    """planned("seed=1", …) → what Hydra's task function makes of it."""
    from omegaconf import OmegaConf

    def make(*overrides: str, plan: Plan | None = None, sweep: bool = False) -> Plan:
        config = compose(*TINY, "dry_run=true", *overrides)
        config |= {"data_dir": str(dataset.parent), "output_dir": str(tmp_path / "outputs")}
        plan = plan or Plan()
        plan.add(OmegaConf.create(config), sweep, overrides)
        return plan

    return make


def begin(plan: Plan, said: str, **more: Any) -> Run:
    """The files of a run of which status.json says so."""
    (job,) = plan.jobs
    assert job.run is not None
    job.run.path.mkdir(parents=True)
    job.run.write_status(said, data_version=data_version(*open_dataset(job.config)), **more)
    return job.run


def files(directory: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in [directory, *directory.rglob("*")]}


def test_the_command_lists_its_jobs_and_leaves_no_trace(tmp_path: Path, dataset: Path) -> None:
    before = files(tmp_path)
    done = seqmtl(tmp_path, "-m", "model=mmoe", "seed=1,x", "dry_run=true")
    assert files(tmp_path) == before
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "mmoe/bce/seed=1: new: start"
    assert lines[1].startswith(f"    {tmp_path}/outputs/aliccp_sim/mmoe-bce-")
    assert lines[2] == "mmoe/bce/seed=x: cannot run: refused, seed must be an integer of at least 0, not 'x'"
    assert lines[3] == "2 jobs: 1 to start, 1 refused; nothing was run (dry_run=true)"


def test_a_value_that_is_neither_runs_nothing(planned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SeqmtlError, match="dry_run must be true or false, not 'yes'"):
        planned("dry_run=yes")
    plan = planned("dry_run=no", sweep=True)
    assert train.execute(plan) == 1
    assert "refused, dry_run must be true or false, not 'no'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("finished", "finished: skip"),
        ("failed", "failed: start anew, what is there moves to attempt-1"),
        ("running", "interrupted: go on, from the beginning"),
        ("interrupted", "interrupted: go on, from the beginning"),
    ],
)
def test_what_becomes_of_each_state(planned: Any, capsys: pytest.CaptureFixture[str], said: str, says: str) -> None:
    plan = planned()
    run = begin(plan, said)
    (run.path / "metrics.json").write_text(json.dumps({"test/auc/click": 0.5}))
    before = files(run.path)
    assert train.execute(plan) == 0
    assert files(run.path) == before
    assert f"shared_bottom/bce/seed=1: {says}\n" in capsys.readouterr().out


def test_a_run_on_other_data_starts_anew(planned: Any, tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned()
    run = begin(plan, "finished")
    (run.path / "metrics.json").write_text(json.dumps({"test/auc/click": 0.5}))
    shutil.rmtree(dataset)
    write_dataset(dataset, seed=5)
    assert preview.show(plan) == 0
    assert "new: start anew, its files are of other data or damaged; what is there moves to attempt-1" in capsys.readouterr().out


def test_a_job_that_another_process_runs(planned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned()
    run = begin(plan, "running")
    with run.lock():
        assert preview.show(plan) == 1
        assert "running: refused, held by process" in capsys.readouterr().out
        sweep = planned(sweep=True)
        assert preview.show(sweep) == 0
        assert "running: wait, held by process" in capsys.readouterr().out


@pytest.mark.slow
def test_boosted_trees_go_on_after_the_boosters_that_are_whole(planned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("model=lightgbm")
    run = begin(plan, "running")
    (run.path / "best.click.txt").touch()
    assert preview.show(plan) == 0
    assert "lightgbm/bce/seed=1: interrupted: go on, after click\n" in capsys.readouterr().out


@pytest.mark.slow
def test_where_a_run_goes_on_is_where_its_checkpoint_stands(
    planned: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mlflow_database: Path
) -> None:
    import yaml

    from seqmtl import job
    from seqmtl.lit import Lit

    plan = planned("trainer.checkpoint_every=5", "model.trunk.dropout=0")
    (planned_job,) = plan.jobs
    run = planned_job.run
    run.path.mkdir(parents=True)
    shutil.copy(mlflow_database, run.path.parents[2])
    (run.path / "config.yaml").write_text(yaml.safe_dump(planned_job.config))
    real = Lit.training_step
    for at, says in ((19, "epoch 2 batch 5"), (25, "epoch 2 batch 12")):  # 600 rows: 12 batches of 50

        def step(self: Any, batch: Any, batch_idx: int, at: int = at) -> None:
            if self.global_step == at:
                raise KeyboardInterrupt
            real(self, batch, batch_idx)

        monkeypatch.setattr(Lit, "training_step", step)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            job.run(run.path)
        assert preview.show(plan) == 0
        assert f"interrupted: go on, after {says}\n" in capsys.readouterr().out
    (run.path / "last.ckpt").write_bytes(b"damaged")
    assert preview.show(plan) == 0
    assert "cannot be read" in capsys.readouterr().out
