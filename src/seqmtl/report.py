"""Tables for the terminal: one run, and a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from seqmtl.statistics.mean import mean_and_std

Metrics = Mapping[str, float | None]

COLUMNS = (("AUC", "auc"), ("LogLoss", "logloss"))


def console() -> Console:
    """Wide enough for a table of two tasks where the output is no terminal."""
    wide = Console()
    return wide if wide.is_terminal else Console(width=160)


def number(value: float | None) -> str:
    """Four decimals; `undefined` where a split had one class only."""
    return "undefined" if value is None else f"{value:.4f}"


def run_table(title: str, tasks: Sequence[str], metrics: Metrics) -> Table:
    """AUC and LogLoss of each task on validation and test."""
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    for split in ("validation", "test"):
        for head, _ in COLUMNS:
            table.add_column(f"{split} {head}", justify="right")
    for task in tasks:
        cells = [number(metrics.get(f"{split}/{key}/{task}")) for split in ("val", "test") for _, key in COLUMNS]
        table.add_row(task, *cells)
    return table


def plus_minus(values: Sequence[float | None]) -> str:
    """mean ± sample standard deviation over seeds; the mean alone where there is one."""
    mean, std = mean_and_std(values)
    return number(mean) if std is None else f"{number(mean)} ± {std:.4f}"


def sweep_table(title: str, tasks: Sequence[str], groups: Mapping[str, Sequence[Metrics]], oracle: Metrics | None = None) -> Table:
    """Test AUC and LogLoss of each group of runs that differ by their seed alone; the oracle's as the last row."""
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    table.add_column("seeds", justify="right")
    names = [f"test/{key}/{task}" for task in tasks for _, key in COLUMNS]
    for task in tasks:
        for head, _ in COLUMNS:
            table.add_column(f"{task} {head}", justify="right")
    for label, runs in groups.items():
        table.add_row(label, str(len(runs)), *(plus_minus([run.get(name) for run in runs]) for name in names))
    if oracle is not None:
        table.add_section()
        table.add_row("oracle (true probabilities)", "", *(number(oracle.get(name)) for name in names))
    return table


def seconds(value: float) -> str:
    """1 h 02 min, 3 min 05 s or 7.5 s."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {math.floor(rest):02d} s"
