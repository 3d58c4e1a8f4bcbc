"""What a launcher does, remembered: the processes that it starts, and how jobs end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqmtl.launch import warm
from seqmtl.launch.command import Job


class Ends:
    """How jobs ended: status and reason."""

    def __init__(self) -> None:
        self.ends: dict[Path, tuple[int, str]] = {}

    @property
    def statuses(self) -> dict[str, int]:
        """By the names of the run directories."""
        return {run_dir.name: status for run_dir, (status, _) in self.ends.items()}

    def started(self, job: Job) -> None: ...

    def waiting(self) -> None: ...

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        self.ends[job.run_dir] = (status, reason)


def started_by(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that launchers start from now on."""
    seen: list[Any] = []
    start = warm.Starter.start

    def remembered(self: warm.Starter, *arguments: Any) -> Any:
        seen.append(start(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(warm.Starter, "start", remembered)
    return seen
