"""Where there is a Slurm: sweeps on it, for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import until

from seqmtl.launch import slurm
from seqmtl.runs import Run

submitit = pytest.importorskip("submitit")

there_is_slurm = pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no Slurm here")
LONG = ("batch_size=4", "trainer.max_epochs=12", "trainer.patience=12", "trainer.checkpoint_every=20", "trainer.threads=1")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seqmtl.cli", "-m", *words]
    return subprocess.Popen(command, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_queue(*which: str) -> list[str]:
    command = ["squeue", *which, f"--user={os.getuid()}", "--noheader", "--array", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def tidy(tmp_path: Path) -> Iterator[None]:
    """A cluster that answers; nothing of a failed test stays in its queue."""
    if subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode != 0:
        pytest.skip("Slurm is installed, and slurmctld does not answer")
    yield
    for note in tmp_path.glob("*/*/*/*/slurm.json"):
        subprocess.run(["scancel", json.loads(note.read_text())["job_id"]], check=False)


@pytest.mark.slow
@there_is_slurm
def test_a_sweep_on_slurm_one_of_it_fails(tmp_path: Path, dataset: Path, tidy: None) -> None:
    small = ("trainer=debug", "batch_size=50", "trainer.max_batches=4", "launcher=slurm", "launcher.time=20")
    sweep = start(tmp_path, *small, "optimizer.lr=1e-3,1e20", "seed=1,2")
    said, errors = sweep.communicate(timeout=900)
    assert sweep.returncode == 1
    assert "2 of 4 jobs finished" in said
    assert errors.count("diverged") == 2


@pytest.mark.slow
@there_is_slurm
def test_a_requeued_job_ends_as_an_undisturbed_one(tmp_path: Path, dataset: Path, tidy: None) -> None:
    whole = start(tmp_path, *LONG, "seed=1", "output_dir=whole")
    _, errors = whole.communicate(timeout=900)
    assert whole.returncode == 0, errors
    sweep = start(tmp_path, *LONG, "seed=1", "launcher=slurm", "launcher.time=30", "output_dir=cut")
    try:
        until(lambda: any("epoch 2/" in p.read_text() for p in tmp_path.glob("cut/*/*/*/job.log")))
        (run_dir,) = tmp_path.glob("cut/*/*/seed=1")
        job = json.loads((run_dir / slurm.NOTE).read_text())["job_id"]
        subprocess.run(["scontrol", "requeue", job], check=True)
        until(lambda: Run(run_dir).status()["state"] == "interrupted")
        until(lambda: job in in_queue("--states=PENDING"))
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)  # Slurm would wait two minutes
        _, errors = sweep.communicate(timeout=900)
    finally:
        sweep.kill()
    assert sweep.returncode == 0, errors
    assert "going on from" in (run_dir / "job.log").read_text()
    (undisturbed,) = tmp_path.glob("whole/*/*/seed=1")
    for name in ("metrics.json", "test_logits.npy"):
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
@there_is_slurm
def test_ctrl_c_leaves_nothing_in_slurms_queue(tmp_path: Path, dataset: Path, tidy: None) -> None:
    sweep = start(tmp_path, "batch_size=2", "trainer.max_epochs=10000", "trainer.patience=10000", "seed=1,2,3", "launcher=slurm")
    try:
        until(lambda: any("epoch 1/" in p.read_text() for p in tmp_path.glob("outputs/*/*/*/job.log")))
        sweep.send_signal(signal.SIGINT)
        said, _ = sweep.communicate(timeout=120)
    finally:
        sweep.kill()
    assert sweep.returncode == 130
    assert "cancelling 3 jobs in Slurm's queue" in said
    (array,) = re.findall(r"submitted to Slurm: (\d+)_0 to", said)
    assert not [job for job in in_queue() if job.startswith(f"{array}_")]
    working = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(p)]
    assert not working


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
