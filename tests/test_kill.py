"""SIGKILL to the real process of a job, again and again: it ends with the very bits of one that nobody disturbed.

`make chaos` does the same to sweeps and to MLflow's writer, and more often.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqmtl import job
from seqmtl.launch.command import Job
from seqmtl.launch.command import command as launched
from seqmtl.runner import reduced
from seqmtl.runs import Run

pytestmark = pytest.mark.slow

HANGS = 900.0  # seconds; a loaded machine is slow


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(run_dir: Path, ranks: int = 1) -> list[str]:
    return launched(Job(run_dir, ranks), "")


def progress(run_dir: Path) -> set[tuple[str, int]]:
    """What changes with every checkpoint and every booster."""
    found = set()
    for path in [*run_dir.rglob("last.ckpt"), *run_dir.glob("best.*.txt")]:
        with contextlib.suppress(OSError):
            found.add((str(path), path.stat().st_ino))
    return found


def wait_for(process: subprocess.Popen[bytes], run_dir: Path, writes: int) -> bool:
    """Until it has written so many checkpoints more; False where it ended before."""
    seen, deadline = progress(run_dir), time.monotonic() + HANGS
    while writes and process.poll() is None:
        assert time.monotonic() < deadline, "the job hangs"
        time.sleep(0.002)
        now = progress(run_dir)
        writes, seen = writes - (now != seen), now
    return writes == 0


def ranks_of(agent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


Victim = Callable[[int], list[int]]  # of the process that was started, whom to kill
VICTIMS: dict[str, Victim] = {
    "itself": lambda pid: [pid],
    "first rank": lambda pid: ranks_of(pid)[:1],
    "last rank": lambda pid: ranks_of(pid)[-1:],
    "both ranks": lambda pid: ranks_of(pid),
}


def end(run_dir: Path, ranks: int) -> None:
    subprocess.run(command(run_dir, ranks), check=True, timeout=HANGS)


def kill_and_run_again(run_dir: Path, rng: random.Random, kills: list[str], ranks: int = 1) -> None:
    for victim in kills:
        process = subprocess.Popen(command(run_dir, ranks))
        try:
            assert wait_for(process, run_dir, rng.randint(1, 3)), "it ended before it was killed"
            time.sleep(rng.uniform(0, 0.1))
            for pid in VICTIMS[victim](process.pid):
                os.kill(pid, signal.SIGKILL)
            assert process.wait(HANGS) != 0
        finally:
            process.kill()
            process.wait()
        assert Run(run_dir).status()["state"] == "running", f"killed: {victim}; to be gone on with, not failed"
        assert not (run_dir / "metrics.json").exists()
    end(run_dir, ranks)
    assert not list(run_dir.glob("attempt-*")), "it went on, and did not start anew"
    assert not list(run_dir.rglob(".*.tmp"))


LONG = ("batch_size=12", "trainer.checkpoint_every=5", "trainer.max_epochs=3", "trainer.patience=3")
CASES = {
    "apem": ("model=apem",),
    "two stages, MAML, uncertainty": ("model=man", "model.trunk.dropout=0.2"),
    "histories": ("model=dtrn",),
    "one best epoch per task": ("model=single_task",),
    "gradnorm": ("model=mmoe", "step=gradnorm"),
    "dwa": ("model=mmoe", "step=dwa"),
    "rows behind": ("model=aitm", "optimizer=exact_lazy_adam"),
    "from the disk": ("model=aitm", "dataset.storage=disk", "trainer.workers=2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_job_ends_as_an_undisturbed_one(plan: Any, with_histories: list[str], case: str) -> None:
    options = (*LONG, *CASES[case], *(with_histories if case == "histories" else ()))
    whole, cut = plan(*options, name="whole"), plan(*options, name="cut")
    end(whole, 1)
    kill_and_run_again(cut, random.Random(case), ["itself"] * 3)
    assert_same(cut, whole)


def test_a_killed_lightgbm_ends_as_an_undisturbed_one(plan: Any) -> None:
    """The boosters that are whole are kept."""
    whole, cut = plan("model=lightgbm", name="whole"), plan("model=lightgbm", name="cut")
    for run_dir in (whole, cut):
        config = reduced(job.read_config(run_dir))
        config["model"] |= {"rounds": 1000, "patience": 1000, "num_leaves": 7}
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    end(whole, 1)
    process = subprocess.Popen(command(cut))
    assert wait_for(process, cut, 1), "it ended before it was killed"
    process.kill()
    process.wait()
    first = (cut / "best.click.txt").stat().st_ino
    assert not (cut / "best.purchase.txt").exists()
    end(cut, 1)
    assert (cut / "best.click.txt").stat().st_ino == first
    assert_same(cut, whole)


def test_a_killed_rank_is_a_job_to_go_on_with(plan: Any) -> None:
    """Whichever dies, torchrun's agent too: the others die with it, and the job ends as one of undisturbed ranks."""
    options = (*LONG, "model=aitm", "trainer.devices=2", "trainer.strategy=ddp")
    whole, cut = plan(*options, name="whole"), plan(*options, name="cut")
    end(whole, 2)
    kill_and_run_again(cut, random.Random(0), ["last rank", "first rank", "both ranks", "itself"], ranks=2)
    assert_same(cut, whole)


def assert_same(run_dir: Path, expected: Path) -> None:
    for name in ("metrics.json", "test_logits.npy"):
        assert (run_dir / name).read_bytes() == (expected / name).read_bytes(), name
