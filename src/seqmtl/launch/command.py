"""What a launcher is given: a job, and the command that runs it on one node."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqmtl.runs import settings_of

BUSY = 75  # exit status of a job whose run directory another process holds: it is neither done nor failed


@dataclass(frozen=True)
class Job:
    """A run directory with its config.yaml, and what it takes to run it.

    Args:
        run_dir: of the run.
        ranks: processes on a node.
        nodes: machines.
        gpus: on a node; 0 on a CPU.
        threads: of a rank; None: as the launcher or torch decides.
        settings: what its command said and the run's hash leaves out (runs.settings_of); "": as config.yaml says. Another command
            with the same job in its list may write that file anew while the job waits.
    """

    run_dir: Path
    ranks: int = 1
    nodes: int = 1
    gpus: int = 0
    threads: int | None = None
    settings: str = ""


def job_of(config: Mapping[str, Any], run_dir: Path) -> Job:
    """The job of a resolved config."""
    trainer = config["trainer"]
    gpus = trainer["devices"] if trainer.get("accelerator") == "gpu" else 0  # a runner's config says less
    return Job(run_dir, trainer["devices"], trainer.get("num_nodes", 1), gpus, trainer["threads"], settings_of(config))


def command(job: Job, sweep: str, rendezvous: str = "") -> list[str]:
    """What to start on each node.

    Args:
        sweep: tag of the MLflow run.
        rendezvous: host:port of the first node where there are several; on one node ranks meet in a file.
    """
    arguments = [str(job.run_dir), "--sweep", sweep, *([f"--settings={job.settings}"] if job.settings else [])]
    if job.ranks * job.nodes == 1:
        return [sys.executable, "-m", "seqmtl.job", *arguments]
    where = [f"--nodes={job.nodes}", f"--rendezvous={rendezvous}"] if job.nodes > 1 else []
    return [sys.executable, "-m", "seqmtl.launch.ranks", f"--ranks={job.ranks}", *where, *arguments]
