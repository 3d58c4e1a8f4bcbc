"""What Slurm runs on a node: one job's command, in a process of its own, ended in good order when Slurm says so.

Slurm signals every process of a job. USR2 comes before the time limit (and at a preemption, where the cluster is so configured):
submitit's handler then queues the job again, and the next start goes on from last.ckpt. TERM comes with scancel and requeue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.launch.command import Job, command
from seqmtl.launch.group import end_groups
from seqmtl.process import end, for_children
from seqmtl.runs import Run

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

SIGNAL_SECONDS = 1.0  # for a signal that ended the job to reach this process too

REQUEUED = "Slurm's time limit came near, or the job was preempted; it is in the queue again"
ENDED = "Slurm ended it (scancel, requeue or preemption); where it is not in the queue again, the same command goes on"


@dataclass(frozen=True)
class OnNode:
    """A job as submitit pickles it: plain values, found on the node by this class's name.

    Args:
        run_dir, ranks, nodes, gpus, threads, settings: of the Job.
        sweep: tag of the MLflow run.
        requeue: how often the time limit may be reached; told when it was once more.
    """

    run_dir: str
    ranks: int
    nodes: int
    gpus: int
    threads: int | None
    sweep: str
    requeue: int
    settings: str = ""

    def __call__(self) -> tuple[int, str]:
        """Run the job; its exit status (negative: killed by that signal), and a reason where Slurm is the cause."""
        from submitit.core.utils import UncompletedJobError
        from submitit.helpers import JobEnvironment

        here = JobEnvironment()
        process = self._start(here)
        try:
            status = process.wait()
            if status != 0 or not self._finished():
                time.sleep(SIGNAL_SECONDS)
        except SystemExit as e:
            # No result is left: the sweep goes on waiting for as long as the job is in the queue.
            self._interrupted(here, process, ENDED if e.code == 128 + signal.SIGTERM else REQUEUED)
            raise
        except UncompletedJobError:
            times = f"{self.requeue + 1} times" if self.requeue else "once, and launcher.requeue is 0"
            reason = f"it reached Slurm's time limit {times}; the same command goes on from its last checkpoint"
            self._interrupted(here, process, reason)
            return 1, reason
        if status == 0 and not self._finished():
            return 1, "it ended before it was finished; the same command goes on from its last checkpoint"
        return status, ""

    def _finished(self) -> bool:
        return Run(Path(self.run_dir)).status().get("state") == "finished"

    def checkpoint(self) -> DelayedSubmission:
        """What a requeued job runs: the same; its state lies in the run directory."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _start(self, here: Any) -> subprocess.Popen[bytes]:
        job = Job(Path(self.run_dir), self.ranks, self.nodes, self.gpus, self.threads, self.settings)
        # By default USR2 kills. A blocked signal stays blocked in what is started here; for this process it is kept until then.
        blocked = {signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        name = "console.log" if here.node == 0 else f"console-{here.node}.log"
        with (job.run_dir / name).open("ab") as console:
            process = subprocess.Popen(
                command(job, self.sweep, rendezvous(here) if self.nodes > 1 else ""),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment(self.ranks),
                process_group=0,
            )
        signal.signal(signal.SIGTERM, end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        return process

    def _interrupted(self, here: Any, process: subprocess.Popen[bytes], reason: str) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # Slurm sends them again
        end_groups([process])
        if here.node == 0:
            write_reason(Path(self.run_dir), reason)


def write_reason(run_dir: Path, reason: str) -> None:
    """Say in status.json why a job was cut off, unless it ended or failed by itself."""
    run = Run(run_dir)
    if run.status().get("state") in ("running", "interrupted"):
        run.write_status("interrupted", reason=reason)


def rendezvous(here: Any) -> str:
    """HOST:PORT where the nodes of a job meet: on the first, at a port below those that the kernel gives away."""
    return f"{here.hostnames[0]}:{10_000 + int(here.raw_job_id) % 20_000}"


def environment(ranks: int) -> dict[str, str]:
    """Slurm's own, with as many threads for each rank as cores were given."""
    # With SLURM_NTASKS Lightning would take Slurm's tasks for the ranks, and queue jobs again itself.
    inherited = {key: value for key, value in os.environ.items() if key != "SLURM_NTASKS"}
    threads = str(max(1, int(inherited.get("SLURM_CPUS_PER_TASK", "1")) // ranks))
    return inherited | for_children() | {"OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads}
