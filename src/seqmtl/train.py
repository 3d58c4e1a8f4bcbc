"""`seqmtl [overrides] [-m]`: compose all jobs first, then run them.

Unusual: Hydra composes and nothing more. Its task function only adds a job to a list; what runs the list is a launcher of ours,
each job of a sweep in a process of its own. A single job of one process on this machine runs in this one.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from seqmtl import preview, sweep
from seqmtl.board import printed
from seqmtl.errors import SeqmtlError
from seqmtl.launch.command import Job, job_of
from seqmtl.plan import Plan, Planned
from seqmtl.runs import Run


def execute(plan: Plan) -> int:
    """Run the list; the exit status is 0 when every job is finished."""
    if not plan.jobs:
        return 0
    if plan.dry_run:
        return preview.show(plan)
    with printed():
        return sweep.run(plan) if plan.sweep else _single(plan.jobs[0])


def _single(planned: Planned) -> int:
    from seqmtl.report import console, run_table, seconds

    run = planned.run
    assert run is not None
    todo = sweep.claim(planned)
    started = time.monotonic()
    if todo:
        job = job_of(planned.config, run.path)
        if _runs_here(planned, job):
            _here(planned, run, job)
        else:
            _elsewhere(planned)
    tasks = planned.config["dataset"]["tasks"]
    console().print(run_table(f"{planned.label} on {planned.config['dataset']['name']}", tasks, run.metrics()))
    took = seconds(time.monotonic() - started) if todo else "finished before, nothing to do"
    print(f"{took}; the run lies in {run.path}")
    sweep.send_rest([planned])
    return 0


def _runs_here(planned: Planned, job: Job) -> bool:
    """One process, with nobody needed to watch it."""
    launcher = planned.config["launcher"]
    return job.ranks * job.nodes == 1 and launcher["name"] in ("local", "parallel") and launcher["time_limit"] is None


def _here(planned: Planned, run: Run, job: Job) -> None:
    from seqmtl.launch.gpus import Gpus

    with ExitStack() as leased:
        if job.gpus:
            lease = Gpus(planned.config["launcher"]["jobs_per_gpu"]).wait(job.gpus)
            leased.callback(lease.release)
            os.environ.update(lease.environment())  # before torch is imported
        from seqmtl import job as this_process

        try:
            this_process.run(run.path, settings=job.settings)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None


def _elsewhere(planned: Planned) -> None:
    """A single job of several ranks or of another machine: processes of its own, as in a sweep."""
    busy = sweep.launch([planned], "")
    if busy:
        raise SeqmtlError(f"another process is running {planned.label}; wait for it, or end it")
    if planned.error:
        raise SeqmtlError(planned.error)
