"""One job after another on this machine, each in a process of its own.

Unusual: a process, not a thread or a fork, so that a job that runs out of memory or is killed takes nothing with it; and every
process asks the kernel to die with its parent, so that nothing is left behind when the sweep is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """A run directory with its config.yaml, and how many ranks run it."""

    run_dir: Path
    ranks: int = 1


def command(job: Job, sweep: str) -> list[str]:
    """What to start."""
    module = ["-m", "seqmtl.job", str(job.run_dir), "--sweep", sweep]
    if job.ranks == 1:
        return [sys.executable, *module]
    return [sys.executable, "-m", "seqmtl.launch.ranks", "--standalone", f"--nproc_per_node={job.ranks}", *module]


def run(jobs: Sequence[Job], sweep: str, waiting: Callable[[Job], None], ended: Callable[[Job, int], None]) -> None:
    """Run the jobs.

    Args:
        sweep: tag of the MLflow runs.
        waiting: called about twice a second while a job runs.
        ended: called with each job and its exit status (negative: killed by that signal).
    """
    for job in jobs:
        with (job.run_dir / "console.log").open("ab") as console:
            process = subprocess.Popen(
                command(job, sweep), stdin=subprocess.DEVNULL, stdout=console, stderr=console, process_group=0
            )
            try:
                while (status := _wait(process)) is None:
                    waiting(job)
            except BaseException:
                _end(process)
                raise
        ended(job, status)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(0.5)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, ten seconds, SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
