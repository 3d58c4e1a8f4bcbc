"""What Slurm says of this user's jobs."""

from __future__ import annotations

import os
import subprocess

OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
CAUSES = {
    "FAILED": "; its process on the node was killed",
    "OUT_OF_MEMORY": "; ask for more with launcher.memory",
    "TIMEOUT": "; give it longer (launcher.time) or an earlier notice (launcher.notice)",
}


def states() -> dict[str, str] | None:
    """{id: state}, of jobs that ended some minutes ago too; None where squeue does not answer."""
    command = ["squeue", f"--user={os.getuid()}", "--states=all", "--array", "--noheader", "--format=%i|%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)


def in_words(state: str) -> str:
    """Why a job ended, of which its state is all that is known."""
    return f"Slurm ended it ({state.lower().replace('_', ' ')}){CAUSES.get(state, '')}"
