"""Processes of jobs that need no start-up of their own: the launcher's side of forks.py.

A process imports torch, Lightning and MLflow in some seconds, which is most of the time of a small job. Jobs of one process on the
CPU are forked from one that has done so; all others are started as ever, and so is every job where that one cannot be had.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from seqmtl.launch.command import Job
from seqmtl.process import for_children

log = logging.getLogger("seqmtl")

JOB = ["-m", "seqmtl.job"]
FORKS = ["-m", "seqmtl.launch.forks"]
IMPORT_SECONDS = 300.0
"""So long a process may take until it has imported what jobs need and forks the first: some seconds here, a minute or two where a
network disk is slow and cold. One that takes longer is taken to hang, and each job imports for itself."""
READ_ONCE = ("OMP_NUM_THREADS", "PYTHONPATH", "PYTHONHASHSEED", "LD_PRELOAD")  # of the environment, when the process begins


class Forked:
    """A job's process: what subprocess.Popen shows of one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pid = 0
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative if a signal ended it; None while it runs."""
        if self.returncode is None:
            self.server.hear(0)
        return self.returncode

    def wait(self) -> int:
        """Until it is gone."""
        while self.returncode is None:
            self.server.hear(1.0)
        return self.returncode


class Server:
    """A process of forks.py.

    Args:
        environment: of the first job.

    Attributes:
        hung: it was ended, as it forked nothing within IMPORT_SECONDS.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {name: environment.get(name) for name in READ_ONCE}
        self.jobs: list[Forked] = []
        self.text = b""
        self.hung = False
        self.answered = False
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *FORKS],
            env=dict(environment) | for_children(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is the sweep's
        )

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether it was begun as a job with this environment must be."""
        return all(environment.get(name) == value for name, value in self.environment.items())

    def start(self, words: Sequence[str], environment: Mapping[str, str], console: Path) -> Forked | None:
        """Fork; returns when the process is there. None: this one is gone, and forked nothing, or had to be ended as it hung."""
        forked = Forked(self)
        self.jobs.append(forked)
        request = {"id": len(self.jobs) - 1, "words": list(words), "environment": dict(environment), "console": str(console)}
        with contextlib.suppress(BrokenPipeError):  # it died; heard below
            _pipe(self.process.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(self.process.stdin).flush()
        while not forked.pid and forked.returncode is None:
            left = self.begun + IMPORT_SECONDS - time.monotonic()
            if not self.answered and left <= 0:
                self.hung = True
                self.process.kill()  # heard below
            self.hear(1.0 if self.answered else min(1.0, max(left, 0.01)))
        return forked if forked.pid else None

    def hear(self, seconds: float) -> bool:
        """Wait so long for an answer, and take in all there are. When the process dies, its jobs die.

        Returns:
            Whether there may be more.
        """
        source = _pipe(self.process.stdout)
        if not select.select([source], [], [], seconds)[0]:
            return False
        some = os.read(source.fileno(), 1 << 16)
        if not some:
            self._gone()
            time.sleep(min(seconds, 0.05))
            return False
        *lines, self.text = (self.text + some).split(b"\n")
        self.answered = True
        for answer in map(json.loads, lines):
            job = self.jobs[answer["id"]]
            job.pid = answer.get("pid", job.pid)
            job.returncode = answer.get("status")
        return True

    def _gone(self) -> None:
        for job in self.jobs:
            job.returncode = -signal.SIGKILL if job.returncode is None else job.returncode

    def close(self) -> None:
        """End it, after its jobs."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self.process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        while self.hear(0):  # how jobs ended before it did
            pass
        self._gone()  # whoever looks at one of them later looks at no closed pipe
        _pipe(self.process.stdout).close()


class Starter:
    """Starts jobs, forked where that is safe and worth it.

    Args:
        jobs: all that will be started: for one alone it is not worth it.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.worth_it = sum(_alone_on_a_cpu(job) for job in jobs) > 1
        self.server: Server | None = None

    def start(
        self, job: Job, words: Sequence[str], environment: Mapping[str, str], console: Path
    ) -> Forked | subprocess.Popen[bytes]:
        """The process of a job, in a group of its own, which writes into `console`.

        Args:
            words: command.command's.
        """
        if self.worth_it and _alone_on_a_cpu(job) and list(words[:3]) == [sys.executable, *JOB]:
            if self.server is None or self.server.process.poll() is not None:
                self._close()
                self.server = Server(environment)
            if self.server.fits(environment):
                forked = self.server.start(words[3:], environment, console)
                if forked is not None:
                    return forked
                self._give_up()
        with console.open("ab") as file:
            return subprocess.Popen(
                words, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
            )

    def _give_up(self) -> None:
        assert self.server is not None
        self.worth_it = False
        status = self.server.process.wait()
        why = f"had not begun to after {IMPORT_SECONDS:g} s" if self.server.hung else f"ended with status {status} instead"
        log.warning("each job imports what it needs: the process that was to fork them %s", why)

    def _close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _alone_on_a_cpu(job: Job) -> bool:
    return job.ranks * job.nodes == 1 and not job.gpus


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
