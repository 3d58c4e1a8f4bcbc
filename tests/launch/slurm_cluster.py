"""Stands for Slurm: programs of its names that remember what they were told, and a queue that a test writes."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seqmtl.launch import slurm
from seqmtl.launch.command import Job

SBATCH = r"""#!/bin/sh
[ -e "$CLUSTER/refuses" ] && { echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }
n=$(($(ls "$CLUSTER" | grep -c submitted) + 1))
cp "$1" "$CLUSTER/submitted-$n"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
if [ "$last" ]; then for i in $(seq 0 "$last"); do echo "${n}_$i|PENDING"; done; else echo "$n|PENDING"; fi >> "$CLUSTER/queue"
echo "Submitted batch job $n"
"""
SQUEUE = r"""#!/bin/sh
[ -e "$CLUSTER/away" ] && exit 1
case "$*" in *"--states=PENDING "*"%i|%r") cat "$CLUSTER/reasons" ;; *) cat "$CLUSTER/queue" ;; esac
"""
SCANCEL = '#!/bin/sh\necho "$@" >> "$CLUSTER/cancelled"\n: > "$CLUSTER/queue"\n'
SCONTROL = '#!/bin/sh\necho "$@" >> "$CLUSTER/requeued"\n'


@dataclass
class Cluster:
    """Stands for Slurm: remembers what was submitted, shows the queue that a test writes, and runs nothing."""

    place: Path
    events: list[Any] = field(default_factory=list)
    turns: list[Callable[[], None]] = field(default_factory=list)

    def job(self, name: str, **size: Any) -> Job:
        run_dir = self.place.parent / "outputs" / name
        run_dir.mkdir(parents=True)
        return Job(run_dir, **size)

    def queue(self, **states: str) -> None:
        (self.place / "queue").write_text("".join(f"{job.removeprefix('j')}|{state}\n" for job, state in states.items()))

    def reasons(self, **reasons: str) -> None:
        """Why jobs wait."""
        (self.place / "reasons").write_text("".join(f"{job.removeprefix('j')}|{why}\n" for job, why in reasons.items()))

    def submitted(self) -> list[str]:
        return [path.read_text() for path in sorted(self.place.glob("submitted-*"))]

    def ends(self, job: str, *result: Any, outcome: str = "success") -> None:
        """What submitit leaves on the node."""
        path = self.place.parent / "logs" / job / f"{job}_0_result.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps((outcome, result if outcome == "success" else result[0])))

    # Events: each call of waiting() is the next turn of what happens.
    def started(self, job: Job) -> None:
        self.events.append((job.run_dir.name, "started"))

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        self.events.append((job.run_dir.name, status, reason))

    def waiting(self) -> None:
        assert self.turns, "it waits for what does not come"
        self.turns.pop(0)()

    def run(self, *jobs: Job, **options: Any) -> None:
        slurm.run(jobs, "sweep", self, folder=str(self.place.parent / "logs"), **options)


def idle() -> None:
    pass


def cluster_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster whose programs are found before all others; nothing waits between two looks at it."""
    place.mkdir()
    (place / "queue").touch()
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("scontrol", SCONTROL), ("srun", SBATCH)):
        (place / name).write_text(script)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(place))
    for name in ("LOOK_SECONDS", "POLL_SECONDS", "LOST_SECONDS"):
        monkeypatch.setattr(slurm, name, 0.0)
    return Cluster(place)


def stop() -> None:
    raise KeyboardInterrupt


def until(happened: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
