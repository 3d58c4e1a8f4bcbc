"""What a sweep shows of its jobs while they run: a line for each that ended, and on a terminal a table of those that run."""

from __future__ import annotations

import contextlib
import logging
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seqmtl.launch.command import BUSY, Job
from seqmtl.plan import Planned
from seqmtl.report import number, seconds
from seqmtl.runs import Run, run_label

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

log = logging.getLogger("seqmtl")

LOOK_SECONDS = 0.5
CONSOLE = "console.log"


class Printer(logging.Handler):
    """Prints: unlike a StreamHandler it finds the standard output of the moment, which rich takes over to keep its bar below."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


@contextlib.contextmanager
def printed() -> Iterator[None]:
    """What is logged while jobs run goes to the terminal."""
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra gives the root logger a handler of its own
    printer = Printer()
    log.addHandler(printer)
    try:
        yield
    finally:
        log.removeHandler(printer)


class Board:
    """The events of a launcher, remembered in the jobs and shown.

    Args:
        jobs: by their run directories.

    Attributes:
        busy: jobs that another process was running when their turn came.
    """

    def __init__(self, jobs: Mapping[Path, Planned]) -> None:
        self.jobs = jobs
        self.busy: list[Planned] = []
        self.begun: dict[Path, float] = {}  # those that run
        self.outcomes: Counter[str] = Counter()
        self.live: Live | None = None
        self.looked = 0.0
        # What stands there already is of earlier starts.
        self.console = {path: _size(path / CONSOLE) for path in jobs}

    def __enter__(self) -> Board:
        from rich.console import Console
        from rich.live import Live

        out = Console()
        if out.is_terminal:
            self.live = Live(console=out, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def started(self, job: Job) -> None:
        self.begun[job.run_dir] = time.monotonic()

    def waiting(self) -> None:
        if self.live is not None and time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            self.live.update(self.table())

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        planned = self.jobs[job.run_dir]
        begun = self.begun.pop(job.run_dir, time.monotonic())
        if status == BUSY:
            self.busy.append(planned)
            return
        planned.seconds = time.monotonic() - begun
        if status != 0:
            planned.error = _cut_off(Run(job.run_dir), status, reason, self._said(job.run_dir))
        self.outcomes["failed" if planned.error else "finished"] += 1
        outcome = f"failed: {planned.error.splitlines()[0]}" if planned.error else _aucs(planned)
        log.info("[%d/%d] %s  %.1f s  %s", self.outcomes.total(), len(self.jobs), planned.label, planned.seconds, outcome)

    def _said(self, run_dir: Path) -> str:
        """What the job's processes printed since the sweep began."""
        try:
            return (run_dir / CONSOLE).read_bytes()[self.console[run_dir] :].decode(errors="replace")
        except OSError:
            return ""

    def table(self) -> Table:
        """The jobs that run, and how many are in which state."""
        from rich.table import Table

        waiting = len(self.jobs) - self.outcomes.total() - len(self.begun) - len(self.busy)
        counts = {
            "running": len(self.begun),
            "waiting": waiting,
            "finished": self.outcomes["finished"],
            "failed": self.outcomes["failed"],
        }
        words = [f"{count} {state}" for state, count in counts.items() if count]
        left = self._left()
        caption = ", ".join(words) + ("" if left is None else f"; about {seconds(left)} left")
        table = Table(box=None, show_header=False, caption=caption, caption_justify="left", padding=(0, 2, 0, 0))
        for path, begun in self.begun.items():
            table.add_row(self.jobs[path].label, seconds(time.monotonic() - begun), _last_line(path))
        return table

    def _left(self) -> float | None:
        """Seconds until the last job ends, if those of a label take as long as the ended ones did; None before any ended."""
        taken: dict[str, list[float]] = {}
        for planned in self.jobs.values():
            if planned.seconds and not planned.error:
                taken.setdefault(run_label(planned.config), []).append(planned.seconds)
        if not taken:
            return None
        overall = statistics.fmean(s for some in taken.values() for s in some)
        left = 0.0
        for path, planned in self.jobs.items():
            if planned.seconds or planned.error:
                continue
            expected = statistics.fmean(taken.get(run_label(planned.config), [overall]))
            left += max(0.0, expected - (time.monotonic() - self.begun[path] if path in self.begun else 0.0))
        return left / max(1, len(self.begun))


def _last_line(run_dir: Path) -> str:
    try:
        return (run_dir / "job.log").read_text(encoding="utf-8").splitlines()[-1].split(" ", 2)[2]
    except (OSError, IndexError):
        return "starting"


def _cut_off(run: Run, status: int, reason: str, said: str) -> str:
    """The reason of a job that did not finish; what the job could not write itself is written into its status.json.

    Args:
        said: what its processes printed.
    """
    written = run.status()
    if written.get("state") == "failed" and written.get("error"):
        return str(written["error"])
    why = reason or _signal(status) or _of_a_rank(said) or _last_words(said) or f"exit status {status}"
    if written.get("state") == "running" and not run.held():
        run.write_status("interrupted", data_version=written.get("data_version"), reason=why)
    return f"{why}; the same command goes on from its last checkpoint" if written.get("state") == "running" else why


def _signal(status: int) -> str:
    more = " (no memory left?)" if status == -9 else ""
    if status > 128:  # as seqmtl.process.end leaves
        return f"ended by signal {status - 128}"
    return f"killed by signal {-status}{more}" if status < 0 else ""


def _of_a_rank(said: str) -> str:
    """What torchrun tells of the rank that ended first."""
    found = re.findall(r"^\s*rank\s*: (\d+).*\n\s*exitcode\s*: -(\d+) ", said, re.MULTILINE)
    return f"rank {found[-1][0]} was {_signal(-int(found[-1][1]))}" if found else ""


def _last_words(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _aucs(planned: Planned) -> str:
    assert planned.run is not None
    metrics = planned.run.metrics()
    tasks = planned.config["dataset"]["tasks"]
    return "test AUC: " + ", ".join(f"{task} {number(metrics.get(f'test/auc/{task}'))}" for task in tasks)
