"""Jobs on this machine, one after another or several at once, each in a process of its own (launcher=local, launcher=parallel).

Unusual: a process, not a thread, so that a job that runs out of memory or is killed takes nothing with it. Nor is it a fork of this
process, which has threads: jobs of one process on the CPU are forked from one that has done nothing but import (warm.py), others
start from nothing. Every process asks the kernel to die with its parent, so that nothing is left behind when the sweep is killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from seqmtl.errors import SeqmtlError
from seqmtl.launch.command import Job, command
from seqmtl.launch.events import Events
from seqmtl.launch.gpus import Gpus, Lease
from seqmtl.launch.group import Process, end_groups
from seqmtl.launch.warm import Starter
from seqmtl.plural import plural
from seqmtl.process import for_children

POLL_SECONDS = 0.2


def run(
    jobs: Sequence[Job],
    sweep: str,
    events: Events,
    at_once: int | None = 1,
    jobs_per_gpu: int = 1,
    time_limit: float | None = None,
) -> None:
    """Run the jobs in their order.

    Args:
        sweep: tag of the MLflow runs.
        events: is told what happens.
        at_once: most jobs at once. None: as many as the GPUs or the cores allow, a core for each rank on a CPU.
        jobs_per_gpu: jobs that may share a GPU.
        time_limit: minutes after which a job is ended; the same command goes on with it.

    Raises:
        SeqmtlError: an option makes no sense, or a job asks for several machines.
    """
    _check(jobs, at_once, jobs_per_gpu, time_limit)
    cores = len(os.sched_getaffinity(0))
    gpus = Gpus(jobs_per_gpu) if any(job.gpus for job in jobs) else Gpus(jobs_per_gpu, ())
    waiting, running = deque(jobs), list[_Running]()
    with Starter(jobs) as starter, _ended(running):
        while waiting or running:
            while waiting and _has_room(waiting[0], running, at_once, cores):
                job = waiting[0]
                if job.gpus > len(gpus.gpus):
                    asks = f"it asks for {plural(job.gpus, 'GPU')}"
                    events.ended(waiting.popleft(), 1, f"{asks}, and this machine has {len(gpus.gpus)} to give")
                    continue
                lease = gpus.take(job.gpus)
                if lease is None:  # another job's, perhaps of another sweep
                    break
                threads = _threads(job, at_once, cores, len(gpus.gpus) * jobs_per_gpu)
                running.append(_start(starter, waiting.popleft(), sweep, lease, threads))
                events.started(job)
            time.sleep(POLL_SECONDS)
            events.waiting()
            for one in [one for one in running if _over(one, time_limit)]:
                running.remove(one)
                events.ended(one.job, one.process.returncode, one.reason)


@dataclass
class _Running:
    job: Job
    process: Process
    lease: Lease
    started: float = field(default_factory=time.monotonic)
    reason: str = ""


def _check(jobs: Sequence[Job], at_once: int | None, jobs_per_gpu: int, time_limit: float | None) -> None:
    for name, value in (("at_once", at_once), ("jobs_per_gpu", jobs_per_gpu), ("time_limit", time_limit)):
        if value is not None and (isinstance(value, str | bool) or value <= 0):
            raise SeqmtlError(f"launcher.{name} must be a number above 0, not {value!r}")
    if any(job.nodes > 1 for job in jobs):
        raise SeqmtlError("trainer.num_nodes is for several machines: launcher=slurm runs such jobs, this one has one machine")


def _has_room(job: Job, running: Sequence[_Running], at_once: int | None, cores: int) -> bool:
    if at_once is not None:
        return len(running) < at_once
    taken = sum(_cores(one.job) for one in running)
    return not running or taken + _cores(job) <= cores


def _cores(job: Job) -> int:
    """Of a CPU; a job on GPUs is held back by its GPUs."""
    return 0 if job.gpus else job.ranks * (job.threads or 1)


def _threads(job: Job, at_once: int | None, cores: int, places: int) -> int | None:
    """Of a rank: what its config says, else its share of the cores; None: alone on the machine, torch decides."""
    if job.threads is not None:
        return job.threads
    if at_once == 1 and job.ranks == 1:
        return None
    if at_once is None and not job.gpus:
        return 1
    beside = at_once or max(1, places // job.gpus)  # as many such jobs as the places on the GPUs allow
    return max(1, cores // (job.ranks * beside))


def _start(starter: Starter, job: Job, sweep: str, lease: Lease, threads: int | None) -> _Running:
    environment = os.environ | for_children() | lease.environment()
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)}
    return _Running(job, starter.start(job, command(job, sweep), environment, job.run_dir / "console.log"), lease)


def _over(one: _Running, time_limit: float | None) -> bool:
    if one.process.poll() is None:
        if time_limit is None or time.monotonic() - one.started < 60 * time_limit:
            return False
        one.reason = f"ended after the time limit of {time_limit:g} min (launcher.time_limit)"
        _end([one])
    one.lease.release()
    return True


@contextlib.contextmanager
def _ended(running: Sequence[_Running]) -> Iterator[None]:
    """However it ends, no job is left."""
    try:
        yield
    finally:
        _end(running)


def _end(running: Sequence[_Running]) -> None:
    end_groups([one.process for one in running])
    for one in running:
        one.lease.release()
