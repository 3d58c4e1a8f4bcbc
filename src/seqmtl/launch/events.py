"""What a launcher tells while it runs a list of jobs."""

from __future__ import annotations

from typing import Protocol

from seqmtl.launch.command import Job


class Events(Protocol):
    """Whoever shows and remembers how the jobs end."""

    def started(self, job: Job) -> None:
        """Its processes run."""

    def waiting(self) -> None:
        """Called a few times a second while there is something to wait for."""

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        """Its processes are gone.

        Args:
            status: exit status; negative: killed by that signal.
            reason: what the job cannot know of itself (a time limit, a machine that is too small).
        """
