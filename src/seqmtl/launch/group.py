"""The end of a job's processes, which have a process group of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, Protocol

GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL


class Process(Protocol):
    """The first process of a group: subprocess.Popen, or what is like it."""

    pid: int
    returncode: int | Any  # Popen's says Any

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


def end_groups(leaders: Sequence[Process]) -> None:
    """SIGTERM to the groups that still run, ten seconds for all of them, SIGKILL."""
    running = [leader for leader in leaders if leader.poll() is None]
    _signal(running, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(leader.poll() is None for leader in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(running, signal.SIGKILL)
    for leader in running:
        leader.wait()


def _signal(leaders: Sequence[Process], number: signal.Signals) -> None:
    for leader in leaders:
        with contextlib.suppress(ProcessLookupError):  # none of its group is left
            os.killpg(leader.pid, number)
