"""Jobs that are forked from a process which has imported what they need: the same results, the same ends, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from launches import Ends, started_by

from seqmtl.launch import local, warm
from seqmtl.launch.command import Job, command
from seqmtl.process import alive, for_children
from seqmtl.runs import Run

pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return clean | for_children() | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return started_by(monkeypatch)


def results(run_dir: Path) -> tuple[bytes, bytes]:
    return (run_dir / "metrics.json").read_bytes(), (run_dir / "test_logits.npy").read_bytes()


def test_the_very_bits_of_processes_of_their_own(plan: Any, started: list[Any]) -> None:
    models = ("mmoe", "apem", "lightgbm", "man")
    own = [plan(f"model={model}", "trainer.threads=1", name=f"own-{model}") for model in models]
    for run_dir in own:
        subprocess.run(command(Job(run_dir), ""), check=True, env=environment(), timeout=600)
    forked = [plan(f"model={model}", "trainer.threads=1", name=f"forked-{model}") for model in models]
    ends = Ends()
    local.run([Job(run_dir, threads=1) for run_dir in forked], "", ends, at_once=2)
    assert [type(process) for process in started] == [warm.Forked] * 4
    assert ends.ends == dict.fromkeys(forked, (0, ""))
    for a, b in zip(own, forked, strict=True):
        assert results(a) == results(b), a
        assert "validation AUC" in (b / "job.log").read_text() or "lightgbm" in b.parent.name
    assert len({process.server.process.pid for process in started}) == 1, "imports are paid once"
    assert not any(alive(process.pid) for process in started)
    assert not alive(started[0].server.process.pid)


def test_a_job_that_fails_or_is_killed_ends_as_ever(plan: Any, started: list[Any], tmp_path: Path) -> None:
    bad, good = plan("model=mmoe", "optimizer.lr=1e30", name="bad"), plan("model=mmoe", name="good")
    long = plan("model=mmoe", "batch_size=1", "trainer.max_epochs=1000", "trainer.patience=1000", name="long")

    class Kills(Ends):
        def waiting(self) -> None:
            if (long / "job.log").exists() and started[-1].returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it is gone, and that has not been heard yet
                    os.kill(started[-1].pid, signal.SIGKILL)

    ends = Kills()
    local.run([Job(run_dir, threads=1) for run_dir in (bad, good, long)], "", ends)
    assert ends.ends == {bad: (1, ""), good: (0, ""), long: (-9, "")}
    assert Run(bad).status()["state"] == "failed"
    assert "not finite" in Run(bad).status()["error"] or Run(bad).status()["error"]
    assert Run(long).state() == "interrupted"
    assert (bad / "console.log").read_text(), "what it prints goes to its own file"


def test_when_the_forking_process_dies_its_jobs_die_and_the_next_gets_another(plan: Any, started: list[Any]) -> None:
    first = plan("model=mmoe", "batch_size=1", "trainer.max_epochs=1000", "trainer.patience=1000", name="first")
    second = plan("model=mmoe", name="second")

    class Kills(Ends):
        def waiting(self) -> None:
            if len(started) == 1 and (first / "job.log").exists() and started[0].returncode is None:
                started[0].server.process.kill()

    ends = Kills()
    local.run([Job(run_dir, threads=1) for run_dir in (first, second)], "", ends)
    assert ends.ends == {first: (-9, ""), second: (0, "")}
    assert not alive(started[0].pid)
    assert started[0].server is not started[1].server


def test_nothing_is_left_when_the_sweep_is_killed(plan: Any, tmp_path: Path) -> None:
    jobs = [plan("model=mmoe", "batch_size=1", "trainer.max_epochs=1000", "trainer.patience=1000", name=name) for name in "ab"]
    program = (
        "import sys, json; from pathlib import Path; from seqmtl.launch import local, warm; from seqmtl.launch.command import Job\n"
        "class Quiet:\n"
        "    def started(self, job): pass\n"
        "    def waiting(self): pass\n"
        "    def ended(self, *a): pass\n"
        f"local.run([Job(Path(p), threads=1) for p in {[str(job) for job in jobs]!r}], '', Quiet(), at_once=2)"
    )
    sweep = subprocess.Popen([sys.executable, "-c", program], env=environment())
    try:
        deadline = time.monotonic() + 300
        while not all((job / "job.log").exists() for job in jobs) and time.monotonic() < deadline:
            time.sleep(0.05)
        pids = [json.loads((job / "status.json").read_text())["pid"] for job in jobs]
        assert all(alive(pid) for pid in pids)
        titles = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    finally:
        sweep.kill()
        sweep.wait()
    assert all(str(job).encode() in title for job, title in zip(jobs, titles, strict=True)), "ps tells which job it is"
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_the_threads_left_when_a_job_is_forked_are_those_that_do_no_harm(tmp_path: Path) -> None:
    """OMP_NUM_THREADS=2, so that OpenBLAS begins some; forks.py says of each kind why."""
    two = environment() | {"OMP_NUM_THREADS": "2"}
    server = warm.Server(two)
    try:
        job = server.start([str(tmp_path / "none")], two, tmp_path / "console.log")
        assert job is not None
        tasks = Path(f"/proc/{server.process.pid}/task")
        names = [(task / "comm").read_text().strip() for task in tasks.iterdir()]
        assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1, "OpenBLAS has ended its own"
        assert job.wait() == 1, "there is no such run"
    finally:
        server.close()
    assert "missing or damaged" in (tmp_path / "console.log").read_text()


def test_other_threads_or_several_ranks_get_processes_of_their_own(plan: Any, started: list[Any]) -> None:
    one, two, ranks = (plan("model=mmoe", "trainer.max_batches=2", "trainer.max_epochs=1", name=name) for name in "abc")
    ends = Ends()
    local.run([Job(one, threads=1), Job(two, threads=2), Job(ranks, ranks=2, threads=1)], "", ends)
    assert [status for status, _ in ends.ends.values()] == [0, 0, 0]
    assert [isinstance(process, warm.Forked) for process in started] == [True, False, False]
