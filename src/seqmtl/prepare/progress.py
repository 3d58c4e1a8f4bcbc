"""Progress of a preparation: a bar with rows and rows per second on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from seqmtl.prepare.raw import Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

SECONDS = 5.0  # between two lines of a step where there is no terminal


@contextmanager
def progress(console: Console) -> Iterator[Report]:
    """Yields what the converters and simulators report to: what is done, rows so far, share of the whole."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    text, rows = TextColumn("{task.description}"), TextColumn("{task.fields[rows]}")
    columns = (text, BarColumn(), rows, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        steps: dict[str, TaskID] = {}
        rate = _Rate()

        def report(what: str, rows: int, share: float) -> None:
            if what not in steps:
                steps[what] = bar.add_task(what, total=1.0, rows="")
            bar.update(steps[what], completed=share, rows=f"{rows:,} rows, {rate(what, rows):,.0f}/s")

        yield report


class _Rate:
    """Rows per second of a step, which starts where the report before it ended."""

    def __init__(self) -> None:
        self.what, self.start, self.last = "", 0.0, time.monotonic()

    def __call__(self, what: str, rows: int) -> float:
        if what != self.what:
            self.what, self.start = what, self.last
        self.last = time.monotonic()
        return rows / max(self.last - self.start, 1e-3)


class _Lines:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.rate = _Rate()
        self.printed = time.monotonic()

    def __call__(self, what: str, rows: int, share: float) -> None:
        rate = self.rate(what, rows)
        if share >= 1 or self.rate.last - self.printed >= SECONDS:
            self.printed = self.rate.last
            self.console.print(f"{what}: {rows:,} rows ({share:.0%}), {rate:,.0f} rows/s", highlight=False, soft_wrap=True)
