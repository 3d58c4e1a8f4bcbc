"""How long jobs will take, by what finished ones took.

Unusual: the time of a run is that between the first and the last line of its job.log, with what a process needs to start. A run
that was cut off and went on later counts as longer than it was; the median of several forgives that.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.job import read_config
from seqmtl.plan import Planned
from seqmtl.report import seconds
from seqmtl.runs import run_label
from seqmtl.status import find

START_SECONDS = 8.0  # of a process: Python and its imports


@dataclass
class Estimate:
    """Seconds of the jobs whose like has been run, one after another; and the labels of those that nothing tells of."""

    seconds: float
    unknown: list[str]

    def __str__(self) -> str:
        told = f"about {seconds(self.seconds)} of work, one job after another, by the runs that are finished here"
        if not self.unknown:
            return told
        names = ", ".join(dict.fromkeys(self.unknown))
        return (f"{told}, and " if self.seconds else "") + f"no run here tells how long these take: {names}"


def estimate(jobs: Iterable[Planned], output_dir: Path) -> Estimate:
    """Of jobs that are to run, by the finished runs below `output_dir`: those of the same model and loss on the same dataset; else
    those on other datasets, by the number of training rows.
    """
    same: dict[tuple[str, str], list[float]] = defaultdict(list)
    per_row: dict[str, list[float]] = defaultdict(list)
    for config, took in _finished(output_dir):
        same[_kind(config)].append(took)
        if rows := _train_rows(config):
            per_row[run_label(config)].append(took / rows)
    found = Estimate(0.0, [])
    for job in jobs:
        label, rows = run_label(job.config), _train_rows(job.config)
        if _kind(job.config) in same:
            found.seconds += statistics.median(same[_kind(job.config)])
        elif label in per_row and rows:
            found.seconds += statistics.median(per_row[label]) * rows
        else:
            found.unknown.append(label)
    return found


def _kind(config: Mapping[str, Any]) -> tuple[str, str]:
    return run_label(config), config["dataset"]["name"]


def _train_rows(config: Mapping[str, Any]) -> int:
    try:
        return open_dataset(config)[1].rows["train"]
    except SeqmtlError:
        return 0


def _finished(output_dir: Path) -> Iterable[tuple[Mapping[str, Any], float]]:
    for run in find(output_dir) if output_dir.is_dir() else ():
        try:
            if run.status().get("state") == "finished":
                yield read_config(run.path), _span((run.path / "job.log").read_text(encoding="utf-8").splitlines()) + START_SECONDS
        except (OSError, ValueError, SeqmtlError):
            continue  # damaged: tells nothing


def _span(lines: Sequence[str]) -> float:
    times = []
    for line in (lines[0], lines[-1]) if lines else ():
        times.append(datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))
    return (times[-1] - times[0]).total_seconds() if times else 0.0
