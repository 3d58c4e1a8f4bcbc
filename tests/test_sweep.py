"""Sweeps as a user meets them: several ranks, a rank that is killed, two sweeps at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqmtl.board import Board
from seqmtl.launch.command import BUSY, Job, command, job_of
from seqmtl.plan import Planned
from seqmtl.runs import Run, run_directory
from seqmtl.sweep import claim

TINY = ("trainer.max_epochs=2", "batch_size=50", "trainer.progress=lines")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR")}
    command = [sys.executable, "-m", "seqmtl.cli", *words]
    return subprocess.Popen(command, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def processes(*words: str) -> list[int]:
    """Of all whose command line or environment has each of these words."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if all(word.encode() in said for word in words) and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not happened():
        assert process.poll() is None, "the sweep ended before"
        time.sleep(0.02)


def mlflow_runs(folder: Path) -> list[tuple[str, str]]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    return sorted((run.info.run_name, run.info.status) for run in found)


@pytest.mark.slow
def test_four_models_on_two_ranks_and_one_rank_is_killed(tmp_path: Path, with_histories: list[str]) -> None:
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    words = ("-m", "model=apem,aitm,man,dtrn", "seed=1,2", *ranks, *TINY, *with_histories)
    sweep = start(tmp_path, *words)
    until(lambda: processes("seqmtl.job", "/man-uncertainty-", "seed=2", "\0RANK=1\0"), sweep)
    for pid in processes("seqmtl.job", "/man-uncertainty-", "seed=2", "\0RANK=1\0"):
        os.kill(pid, signal.SIGKILL)
    out, err = sweep.communicate(timeout=1500)
    assert sweep.returncode == 1
    assert "7 of 8 jobs finished" in out
    assert "failed: man/uncertainty/seed=2: rank 1 was killed by signal 9" in err
    assert not processes(f"{tmp_path}"), "nothing is left"
    again = start(tmp_path, *words)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert "7 finished before, 1 to run" in out
    names = [
        f"{model}/seed={seed}" for model in ("aitm/calibrated", "apem/dependence", "dtrn/bce", "man/uncertainty") for seed in (1, 2)
    ]
    assert mlflow_runs(tmp_path) == [(name, "FINISHED") for name in names]


@pytest.mark.slow
def test_two_sweeps_at_once_run_each_job_once(tmp_path: Path, dataset: Path) -> None:
    sweeps = [start(tmp_path, "-m", "model=mmoe,aitm", f"seed={seeds}", *TINY) for seeds in ("1,2,3", "3,2,1")]
    for sweep in sweeps:
        out, err = sweep.communicate(timeout=900)
        assert sweep.returncode == 0, out + err
        assert "6 of 6 jobs finished" in out
    for run in (tmp_path / "outputs" / "aliccp_sim").glob("*/seed=*"):
        assert not list(run.glob("attempt-*")), "none was begun twice"
        assert (run / "job.log").read_text().count("epoch 1/2") == 1
    names = [f"{model}/seed={seed}" for model in ("aitm/calibrated", "mmoe/bce") for seed in (1, 2, 3)]
    assert mlflow_runs(tmp_path) == [(name, "FINISHED") for name in names]


@pytest.mark.slow
def test_a_job_whose_other_sweep_is_killed_is_taken_over(tmp_path: Path, dataset: Path) -> None:
    words = (
        "-m",
        "model=mmoe",
        "seed=1",
        "batch_size=2",
        "trainer.max_epochs=4",
        "trainer.patience=4",
        "trainer.checkpoint_every=20",
    )
    first = start(tmp_path, *words)
    until(lambda: list(tmp_path.glob("outputs/*/*/seed=1/last.ckpt")), first)
    second = start(tmp_path, *words)
    assert second.stdout is not None
    while "waiting for mmoe/bce/seed=1, which another" not in (line := second.stdout.readline()):
        assert line, "it ended"
    first.kill()
    out, err = second.communicate(timeout=600)
    assert second.returncode == 0, err
    assert "1 of 1 jobs finished" in out
    (log,) = tmp_path.glob("outputs/*/*/seed=1/job.log")
    assert "going on from" in log.read_text()
    first.communicate()


@pytest.mark.slow
def test_a_waiting_job_keeps_the_settings_of_its_own_sweep(
    tmp_path: Path, dataset: Path, compose: Any, mlflow_database: Path
) -> None:
    """Another sweep with the same job writes config.yaml anew while it waits."""
    output = tmp_path / "outputs"
    output.mkdir()
    shutil.copy(mlflow_database, output)
    places = (f"data_dir={dataset.parent}", f"output_dir={output}", "trainer=debug", "trainer.max_batches=2")
    first = compose(*places, "trainer.log_every=3", "trainer.checkpoint_every=7")
    second = compose(*places, "trainer=ddp", "trainer.devices=3", "trainer.log_every=4", "trainer.checkpoint_every=8")
    second["trainer"] |= {"max_epochs": 1, "max_batches": 2, "threads": 2}
    second["data_dir"] = "data"  # of another working directory
    mine, other = (Planned(config, Run(run_directory(config))) for config in (first, second))
    assert mine.run == other.run
    assert claim(mine)
    assert mine.run is not None
    mine.run.write_config(other.config)
    words = command(job_of(mine.config, mine.run.path), "")
    subprocess.run(words, check=True, timeout=300)
    ran = yaml.safe_load((mine.run.path / "config.yaml").read_text())
    assert ran == mine.config
    assert mine.run.state() == "finished"


# --- What is shown ---


def planned(folder: Path, models: Sequence[str], state: str = "finished") -> dict[Path, Planned]:
    jobs = {}
    for seed, model in enumerate(models):
        run = Run(folder / f"{seed}")
        run.path.mkdir()
        run.write_status(state, data_version="1")
        (run.path / "metrics.json").write_text('{"test/auc/click": 0.7}')
        config = {"model": {"name": model}, "loss": {"name": "bce"}, "seed": seed, "dataset": {"tasks": ["click"]}}
        jobs[run.path] = Planned(config, run)
    return jobs


def test_the_board_counts_and_foresees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    jobs = planned(tmp_path, ["fast", "slow", "fast", "slow", "slow"])
    board = Board(jobs)
    paths = [Job(path) for path in jobs]
    for job in paths[:2]:
        board.started(job)
    now = 10.0
    board.ended(paths[0], 0)
    board.started(paths[2])
    now = 100.0
    board.ended(paths[1], 0)
    board.ended(paths[2], 1)
    board.started(paths[3])
    board.started(paths[4])
    (tmp_path / "3" / "job.log").write_text("2026-01-01 00:00:00 epoch 1/2  batch 3/7\n")
    now = 130.0
    table = board.table()
    assert table.caption == "2 running, 2 finished, 1 failed; about 1 min 10 s left"  # two that take 100 s each, 30 s ago
    assert list(table.columns[0].cells) == ["slow/bce/seed=3", "slow/bce/seed=4"]
    assert list(table.columns[2].cells) == ["epoch 1/2  batch 3/7", "starting"]


@pytest.mark.parametrize(
    ("status", "reason", "says"),
    [
        (-9, "", "killed by signal 9 (no memory left?); the same command goes on"),
        (-15, "ended after the time limit of 5 min", "ended after the time limit of 5 min; the same command goes on"),
        (1, "", "the last words; the same command goes on"),
    ],
)
def test_a_job_that_could_not_say_why_is_interrupted_and_its_status_says_why(
    tmp_path: Path, status: int, reason: str, says: str
) -> None:
    jobs = planned(tmp_path, ["mmoe"], "running")
    ((path, job),) = jobs.items()
    (path / "console.log").write_text("of an earlier start\n")
    board = Board(jobs)
    with (path / "console.log").open("a") as console:
        console.write("first words\nthe last words\n" if status == 1 else "")
    board.ended(Job(path), status, reason)
    assert job.error.startswith(says)
    written = json.loads((path / "status.json").read_text())
    assert written["state"] == "interrupted"
    assert written["reason"] == says.partition(";")[0]
    assert written["data_version"] == "1", "else it would begin anew"


def test_a_job_that_said_why_is_failed_and_one_that_is_busy_is_neither(tmp_path: Path) -> None:
    jobs = planned(tmp_path, ["mmoe", "aitm"], "failed")
    first, second = jobs.items()
    Run(first[0]).write_status("failed", error="out of luck")
    board = Board(jobs)
    board.ended(Job(first[0]), 1)
    board.ended(Job(second[0]), BUSY)
    assert first[1].error == "out of luck"
    assert Run(first[0]).status()["state"] == "failed"
    assert not second[1].error
    assert board.busy == [second[1]]
