"""Jobs as tasks of Ray (https://docs.ray.io), on a cluster or on this machine.

Unusual: a Ray worker does not train. It starts the job's own process, as every launcher does, and watches it: a job that is
killed takes no worker with it, and it dies with its worker. Of Ray come the choice of the node, the cores and GPUs, and the second
start, on another node, when one is lost: the job then goes on from its checkpoint, so all nodes must share the file system.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import logging
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqmtl.errors import SeqmtlError
from seqmtl.launch.command import Job, command
from seqmtl.launch.events import Events
from seqmtl.launch.group import GRACE_SECONDS, end_groups
from seqmtl.process import for_children

ROOM_SECONDS = 60.0  # in which a lost node that a job needs may come back
LOCAL = {
    # The one way to keep Ray's servers off all other interfaces: it takes _node_ip_address="127.0.0.1" for the outer address.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",  # other users of this machine reach the loopback too
}

Outcome = tuple[int, str]  # exit status, and the reason where there is more to say


def run(
    jobs: Sequence[Job],
    sweep: str,
    events: Events,
    *,
    address: str | None,
    cpus: int | None,
    at_once: int | None,
    retries: int,
    exported: Sequence[str],
) -> None:
    """Run the jobs.

    Args:
        sweep: tag of the MLflow runs.
        events: hears of each job's start and end.
        address: of the cluster, host:port or auto; None: what RAY_ADDRESS names, else a Ray of this machine, ended with the sweep.
        cpus: cores of each rank; None: trainer.threads, else 1.
        at_once: most jobs at once; None: as many as have room.
        retries: how often a job is started again after its node or worker was lost.
        exported: patterns of the environment variables that a job on another node gets from here.

    Raises:
        SeqmtlError: Ray is missing or cannot be joined, or an option is no number that it can be.
    """
    _refuse(jobs, cpus, at_once, retries)
    address = address or os.environ.get("RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if any(fnmatch.fnmatchcase(name, p) for p in exported)}
    with _joined(address):
        waiting = [job for job in jobs if not _without_room(job, cpus, events)]
        running: dict[Any, Job] = {}
        room = dict.fromkeys(waiting, time.monotonic())
        try:
            while waiting or running:
                while waiting and len(running) < (at_once or len(jobs)):
                    job = waiting.pop(0)
                    running[_submit(job, sweep, environment, cpus, retries)] = job
                _hear(running, events)
                _give_up(running, cpus, room, events)
                events.waiting()
        finally:
            _cancel(list(running))


def _refuse(jobs: Sequence[Job], cpus: int | None, at_once: int | None, retries: int) -> None:
    for key, value, least in (("cpus", cpus, 1), ("at_once", at_once, 1), ("retries", retries, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise SeqmtlError(f"launcher.{key} must be an integer of at least {least}, not {value!r}")
    if any(job.nodes > 1 for job in jobs):
        raise SeqmtlError("launcher=ray runs all ranks of a job on one node; for trainer.num_nodes above 1 take launcher=slurm")
    if importlib.util.find_spec("ray") is None:
        raise SeqmtlError(
            "launcher=ray needs Ray: pip install 'seqmtl[ray]' (launcher=parallel runs many jobs on one machine without)"
        )


@contextlib.contextmanager
def _joined(address: str | None) -> Iterator[None]:
    """Be a client of the cluster; without an address, of a Ray of this machine alone, ended afterwards.

    Raises:
        SeqmtlError: it cannot be joined.
    """
    if address and address.startswith("ray://"):
        raise SeqmtlError(
            f"{address}: launcher=ray runs on a node of the cluster; give the address there, host:port (6379), or auto"
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else a Ray that is started here reports to its makers
    if not address:
        os.environ.update(LOCAL)
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray leaves one in the home directory
    import ray

    # No objects pass but a few numbers: 80 MB is the least that Ray takes, its default a third of the memory.
    local = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as e:  # of many kinds: no such host, no such port, another version of Ray or Python, no token
        raise SeqmtlError(f"cannot join Ray at {address or 'this machine'}: {' '.join(str(e).split())}") from e
    try:
        if not address and (outer := {n["NodeManagerAddress"] for n in ray.nodes()} - {"127.0.0.1"}):
            raise SeqmtlError(f"this version of Ray listens on {', '.join(outer)} and not on 127.0.0.1 alone; start one by hand")
        yield
    finally:
        ray.shutdown()


def _cores(job: Job, cpus: int | None) -> int:
    return cpus or job.threads or 1


def _room(job: Job, cpus: int | None) -> bool:
    """Whether any node has, when it is idle, what the job asks for."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(n.get("CPU", 0) >= job.ranks * _cores(job, cpus) and n.get("GPU", 0) >= job.gpus for n in nodes)


def _without_room(job: Job, cpus: int | None, events: Events) -> bool:
    """Ray would let such a job wait for ever."""
    import ray

    if _room(job, cpus):
        return False
    nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    has = ", ".join(f"{place}: {_room_words(n.get('CPU', 0), n.get('GPU', 0))}" for place, n in nodes)
    asks = f"it asks for {_room_words(job.ranks * _cores(job, cpus), job.gpus)} of one node"
    events.ended(job, 1, f"{asks}, and the nodes of this Ray have {has}; lower trainer.devices or launcher.cpus")
    return True


def _room_words(cores: float, gpus: float) -> str:
    """Ray counts in floats: a task may ask for half a core."""
    return f"{cores:g} core{'' if cores == 1 else 's'} and {gpus:g} GPU{'' if gpus == 1 else 's'}"


def _submit(job: Job, sweep: str, environment: dict[str, str], cpus: int | None, retries: int) -> Any:
    """The task, a generator of what it yields."""
    import ray

    task = ray.remote(attempt).options(
        num_cpus=job.ranks * _cores(job, cpus),
        num_gpus=job.gpus,
        max_retries=retries,
        num_returns="streaming",
        name=f"{job.run_dir.parent.name}/{job.run_dir.name}",
    )
    threads = str(_cores(job, cpus))
    return task.remote(job, sweep, Path.cwd(), environment | {"OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads})


def _hear(running: dict[Any, Job], events: Events) -> None:
    """Wait half a second for tasks that have something to say; those that ended are taken out."""
    import ray

    if not running:
        return
    for task in ray.wait(list(running), num_returns=len(running), timeout=0.5)[0]:
        try:
            outcome: Outcome | None = ray.get(next(task))
        except ray.exceptions.RayError as e:
            outcome = (1, _why(e))
        if outcome is None:
            events.started(running[task])
        else:
            events.ended(running.pop(task), *outcome)


def _why(error: Exception) -> str:
    """What Ray says of a task that did not come to its end."""
    import ray

    said = str(error).strip().splitlines()[-1]
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"the node could not start it: {said}; every node needs the same Python with the same seqmtl"
    return f"Ray gave it up: {said}"


def _give_up(running: dict[Any, Job], cpus: int | None, room: dict[Job, float], events: Events) -> None:
    """End the jobs for which a lost node has left no room; `room` is when each had it last."""
    now = time.monotonic()
    for task, job in list(running.items()):
        if _room(job, cpus):
            room[job] = now
        elif now - room[job] > ROOM_SECONDS:
            del running[task]
            _cancel([task])
            _without_room(job, cpus, events)


def _cancel(tasks: Sequence[Any]) -> None:
    """End the tasks and the processes of their jobs; what does not end in time dies with its worker."""
    import ray

    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait([task.completed() for task in tasks], num_returns=len(tasks), timeout=GRACE_SECONDS + 2)


def attempt(job: Job, sweep: str, place: Path, environment: dict[str, str]) -> Iterator[Outcome | None]:
    """In a Ray worker: start the job's process, and watch it.

    Args:
        place: the working directory of the command, which relative paths of the config count from.
        environment: variables that are added to those of the node.

    Yields:
        None when a node has taken it, then how it ended. On a second node Ray passes over what was yielded before: the outcome must
        be the second word always.
    """
    yield None
    unseen = [str(path) for path in (place, job.run_dir / "config.yaml") if not path.exists()]
    if unseen:
        yield 1, f"node {os.uname().nodename} does not see {', '.join(unseen)}: the nodes of the cluster must share the file system"
        return
    with (job.run_dir / "console.log").open("ab") as console:
        process = subprocess.Popen(
            command(job, sweep),
            cwd=place,
            env=os.environ | environment | for_children(),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            process_group=0,
        )
    try:
        while (status := _wait(process)) is None:
            pass
    finally:
        end_groups([process])
    yield status, ""


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(0.5)
    return None
