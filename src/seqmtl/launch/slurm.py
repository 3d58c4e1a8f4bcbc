"""Jobs as arrays of a Slurm cluster, submitted through submitit; the sweep waits for them.

Unusual: Slurm's accounting (sacct, which submitit asks) is not needed, many clusters have none. A job has ended when it left a
result, or when squeue no longer knows it. What is in the queue already, of an earlier sweep, is waited for and not submitted again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import time as clock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqmtl.disk import one_at_a_time, write_file
from seqmtl.errors import SeqmtlError
from seqmtl.launch import squeue
from seqmtl.launch.command import Job
from seqmtl.launch.events import Events
from seqmtl.launch.slurm_job import OnNode, write_reason
from seqmtl.plural import plural

log = logging.getLogger("seqmtl")

NAME = "seqmtl"  # of the jobs in squeue
NOTE = "slurm.json"  # in a run directory: where its job is in the queue
LOOK_SECONDS = 0.5  # between two looks for results
POLL_SECONDS = 10.0  # between two questions to the cluster
LOST_SECONDS = 30.0  # for the result of a job that left the queue to be seen on a network file system
CANCEL_SECONDS = 20.0


def run(
    jobs: Sequence[Job],
    sweep: str,
    events: Events,
    *,
    folder: str,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    gpus: int | None = None,
    cpus: int | None = None,
    memory: str | None = None,
    time: int | str = "1-00:00:00",
    notice: int = 90,
    requeue: int = 3,
    at_once: int = 256,
    array: int = 1000,
    setup: Sequence[str] = (),
    detach: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Submit the jobs and wait for their ends. The options are those of conf/launcher/slurm.yaml.

    Raises:
        SeqmtlError: there is no Slurm here, submitit is missing, or sbatch refuses.
    """
    _check(at_once=at_once, array=array, requeue=requeue, notice=notice, cpus=cpus, gpus=gpus)
    asked: dict[str, Any] = {"job_name": NAME, "partition": partition, "account": account, "qos": qos, "constraint": constraint}
    asked |= {
        "mem": memory,
        "time": minutes(time),
        "signal_delay_s": notice,
        "array_parallelism": at_once,
        "setup": list(setup) or None,
    }
    _refuse_script(asked | dict(extra or {}) | {"folder": folder})
    asked["additional_parameters"] = {"requeue": True} | dict(extra or {})
    if gpus is not None:
        jobs = [replace(job, gpus=gpus) for job in jobs]
    place = Path(folder).absolute()
    waited: list[Queued] = []
    try:
        # Two sweeps that begin together would both find a job not yet in the queue.
        with one_at_a_time(place / ".lock"):
            waited += _found(jobs, place)
            left = [job for job in jobs if job not in [queued.job for queued in waited]]
            if waited:
                log.info("waiting for %s that an earlier command left in Slurm's queue", plural(len(waited), "job"))
            for some in _arrays(left, array):
                sent = _submit(some, sweep, place, requeue, asked | _size(some[0], cpus))
                waited += sent
                _note(sent, place)
        _wait(waited, events)
    except BaseException:
        _leave([queued for queued in waited if queued.own], detach)
        raise


@dataclass
class Queued:
    """A job in Slurm's queue: submitit's object of it, and whether this sweep submitted it."""

    job: Job
    slurm: Any
    own: bool = True
    started: bool = False
    lost: float | None = None  # when it was first missed

    @property
    def id(self) -> str:
        return str(self.slurm.job_id)

    def outcome(self) -> tuple[int, str] | None:
        """Exit status and reason, of the first node that failed where there are several; None while there is no result."""
        tasks = [self.slurm.task(k) for k in range(self.slurm.num_tasks)]
        if not all(task.paths.result_pickle.exists() for task in tasks):
            return None
        try:
            results = [task.result() for task in tasks]
        except RuntimeError as e:  # what submitit makes of an exception on the node
            told = [line for line in str(e).splitlines() if re.match(r"\w[\w.]*(Error|Exception)\b", line)]
            return 1, f"{told[-1] if told else 'it could not be started'}; see {tasks[0].paths.stderr}"
        return next((result for result in results if result[0] != 0), results[0])


def _check(**options: int | None) -> None:
    for name, value in options.items():
        least = 0 if name in ("requeue", "notice", "gpus") else 1
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise SeqmtlError(f"launcher.{name} must be a whole number of at least {least}, not {value!r}")


def _refuse_script(asked: Mapping[str, Any]) -> None:
    """Each value becomes a line of the script that sbatch runs: one of several lines would be shell."""
    for key, value in asked.items():
        if key != "setup" and not (re.fullmatch(r"\w+", key) and str(value).isprintable()):
            raise SeqmtlError(f"launcher: {key}={value!r} is no parameter of sbatch; it must be one line of plain characters")


def minutes(limit: int | str) -> int:
    """Slurm's ways to write a time limit, in minutes.

    Raises:
        SeqmtlError: none of them.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if found is None or str(limit) == "0":
        raise SeqmtlError(f"launcher.time must be minutes, HH:MM:SS or D-HH:MM:SS, not {limit!r}")
    days, *rest = (int(part) if part else 0 for part in found.groups())
    if found[1] or found[4]:
        hours, mins, seconds = rest
    else:  # Slurm: MM or MM:SS
        hours, (mins, seconds) = 0, rest[:2]
    return max(1, (days * 24 + hours) * 60 + mins + -(-seconds // 60))


def _size(job: Job, cpus: int | None) -> dict[str, Any]:
    """What a job asks for: one task on each node, which starts the ranks there."""
    cores = (cpus or job.threads or 1) * job.ranks
    # Since Slurm 22.05 srun does not ask for the cores of the batch script by itself.
    size = {"nodes": job.nodes, "ntasks_per_node": 1, "cpus_per_task": cores, "srun_args": [f"--cpus-per-task={cores}"]}
    return size | ({"gpus_per_node": job.gpus} if job.gpus else {})


def _arrays(jobs: Sequence[Job], most: int) -> Iterator[list[Job]]:
    """Jobs of one size, no more than an array takes."""
    sizes: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        sizes.setdefault((job.ranks, job.nodes, job.gpus, job.threads), []).append(job)
    for alike in sizes.values():
        for first in range(0, len(alike), most):
            yield alike[first : first + most]


def _submit(jobs: Sequence[Job], sweep: str, folder: Path, requeue: int, asked: Mapping[str, Any]) -> list[Queued]:
    submitit = _submitit()
    executor = submitit.SlurmExecutor(folder / "%j", max_num_timeout=requeue)
    # Where this is a job of Slurm's itself, its size is not theirs.
    inside = "SLURM_JOB_ID" in os.environ
    try:
        executor.update_parameters(**{key: value for key, value in asked.items() if value is not None})
        with submitit.helpers.clean_env() if inside else contextlib.nullcontext(), executor.batch():
            sent = [
                executor.submit(OnNode(str(j.run_dir), j.ranks, j.nodes, j.gpus, j.threads, sweep, requeue, j.settings))
                for j in jobs
            ]
    except (RuntimeError, ValueError) as e:
        raise SeqmtlError(f"sbatch refused the jobs: {str(e).strip().splitlines()[-1]}") from e
    return [Queued(job, slurm) for job, slurm in zip(jobs, sent, strict=True)]


def _note(sent: Sequence[Queued], folder: Path) -> None:
    """Write into the run directories where their jobs are, so that they are found again."""
    for queued in sent:
        note = {"job_id": queued.id, "folder": str(folder), "nodes": queued.job.nodes}
        write_file(queued.job.run_dir / NOTE, (json.dumps(note) + "\n").encode())
    first, last = sent[0].id, sent[-1].id
    log.info("submitted to Slurm: %s; its logs lie in %s", first if first == last else f"{first} to {last}", folder)


def _found(jobs: Iterable[Job], folder: Path) -> list[Queued]:
    """The jobs that an earlier sweep left in the queue; results are unpickled, so from this folder alone."""
    submitit = _submitit()
    noted = []
    for job in jobs:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads((job.run_dir / NOTE).read_text(encoding="utf-8"))
            if Path(note["folder"]) != folder:
                continue
            slurm = submitit.SlurmJob(folder / "%j", str(note["job_id"]), tasks=list(range(note["nodes"])))
            noted.append(Queued(job, slurm, own=False))
    states = squeue.states() if noted else {}
    if states is None:
        raise SeqmtlError("squeue does not answer, and some of these jobs may be in Slurm's queue already; try again later")
    live = [queued for queued in noted if states.get(queued.id, "COMPLETING") not in (*squeue.OVER, "COMPLETING")]
    return [queued for queued in live if queued.outcome() is None]


def _wait(waited: Sequence[Queued], events: Events) -> None:
    """Tell of starts and ends until none is left."""
    left, quiet = list(waited), squeue.Quiet()
    asked = clock.monotonic() - POLL_SECONDS
    while left:
        if clock.monotonic() - asked >= POLL_SECONDS:
            asked, states = clock.monotonic(), squeue.states()
            _look(left, states, events, asked)
            quiet.look([queued.id for queued in left], states or {}, asked)
        for queued in list(left):
            outcome = queued.outcome()
            if outcome is None and queued.lost is not None and clock.monotonic() - queued.lost > LOST_SECONDS:
                outcome = _gone(queued)
            if outcome is not None:
                left.remove(queued)
                if not queued.started:
                    events.started(queued.job)
                events.ended(queued.job, *outcome)
        events.waiting()
        clock.sleep(LOOK_SECONDS)


def _look(left: Iterable[Queued], states: Mapping[str, str] | None, events: Events, now: float) -> None:
    if states is None:
        return  # the controller is away: nothing is known
    for queued in left:
        state = states.get(queued.id, "OVER")
        if state == "RUNNING" and not queued.started:
            queued.started = True
            events.started(queued.job)
        if state not in (*squeue.OVER, "OVER"):
            queued.lost = None
        elif queued.lost is None:
            queued.lost = now


def _gone(queued: Queued) -> tuple[int, str]:
    """A job that left the queue without a result."""
    state = (squeue.states() or {}).get(queued.id, "")
    said = squeue.in_words(state) if state else "it is no longer in Slurm's queue"
    logs = queued.slurm.task(0).paths.stderr
    reason = f"{said}; the same command goes on from its last checkpoint (Slurm's log: {logs})"
    write_reason(queued.job.run_dir, reason)
    return 1, reason


def _leave(own: Sequence[Queued], detach: bool) -> None:
    """The sweep was stopped: cancel what it submitted, unless that is to go on."""
    if not own:
        return
    if detach:
        log.info("the jobs stay in Slurm's queue; see how they fare with: seqmtl status, and wait for them with the same command")
        return
    log.info("cancelling %s in Slurm's queue, which launcher.detach=true would leave there", plural(len(own), "job"))
    done = subprocess.run(["scancel", *(queued.id for queued in own)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log.warning("scancel failed (%s): the jobs may still be in the queue; the same command waits for them", done.stderr.strip())
        return
    for queued in own:
        (queued.job.run_dir / NOTE).unlink(missing_ok=True)
    deadline = clock.monotonic() + CANCEL_SECONDS
    while clock.monotonic() < deadline:
        states = squeue.states()
        if states is not None and all(states.get(queued.id, "CANCELLED") in squeue.OVER for queued in own):
            return
        clock.sleep(LOOK_SECONDS)


def _submitit() -> Any:
    """submitit, where it and Slurm are here.

    Raises:
        SeqmtlError: one of them is not.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise SeqmtlError("launcher=slurm needs a machine from which jobs are submitted to Slurm: there is no sbatch here")
    try:
        import submitit
    except ImportError:
        raise SeqmtlError("launcher=slurm needs submitit: pip install 'seqmtl[slurm]'") from None
    return submitit
