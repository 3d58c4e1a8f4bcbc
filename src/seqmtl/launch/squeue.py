"""What Slurm says of this user's jobs."""

from __future__ import annotations

import logging
import os
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping

log = logging.getLogger("seqmtl")

QUIET_SECONDS = 60.0  # in which none of a command's jobs ran, before it says why
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
    return _ask("all", "%T")


def _ask(states: str, what: str) -> dict[str, str] | None:
    """{id: what}, of the jobs in these states; `what` is a field of squeue's --format."""
    command = ["squeue", f"--user={os.getuid()}", f"--states={states}", "--array", "--noheader", f"--format=%i|{what}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)


class Quiet:
    """Says once why the jobs of a command wait, when for a minute none of them began, ran or ended."""

    def __init__(self) -> None:
        self.since = 0.0
        self.left: set[str] = set()
        self.told = False

    def look(self, left: Collection[str], states: Mapping[str, str], now: float) -> None:
        """Hear of the jobs that are left.

        Args:
            left: their ids.
            states: of the queue, as states() returns them.
            now: seconds.
        """
        if set(left) != self.left or any(states.get(job) != "PENDING" for job in left):
            self.since, self.left = now, set(left)
        elif not self.told and now - self.since >= QUIET_SECONDS:
            reasons = _ask("PENDING", "%r") or {}
            counts = Counter(reasons[job] for job in left if job in reasons).most_common()
            if counts:
                self.told = True
                why = counts[0][0] if len(counts) == 1 else "; ".join(f"{count} {reason}" for reason, count in counts)
                total = sum(count for _, count in counts)
                log.info("waiting for Slurm: %s pending (%s)", "1 job is" if total == 1 else f"{total} jobs are", why)


def in_words(state: str) -> str:
    """Why a job ended, of which its state is all that is known."""
    return f"Slurm ended it ({state.lower().replace('_', ' ')}){CAUSES.get(state, '')}"
