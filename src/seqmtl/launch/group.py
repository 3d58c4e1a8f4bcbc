"""The end of a job's processes, which have a process group of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence

GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL


def end_groups(leaders: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to the groups that still run, ten seconds for all of them, SIGKILL."""
    running = [leader for leader in leaders if leader.poll() is None]
    _signal(running, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(leader.poll() is None for leader in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(running, signal.SIGKILL)
    for leader in running:
        leader.wait()


def _signal(leaders: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for leader in leaders:
        with contextlib.suppress(ProcessLookupError):  # none of its group is left
            os.killpg(leader.pid, number)
