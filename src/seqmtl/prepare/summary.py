"""What a prepared dataset holds, as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqmtl.data.meta import SPLITS, Meta

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(console: Console, name: str, meta: Meta) -> None:
    """Rows and rates of each split, lengths of the histories, rates by position, and what was left out or changed."""
    _rates(console, name, meta)
    if meta.histories or meta.bags:
        _histories(console, meta)
    if "rates_by_position" in meta.statistics:
        _positions(console, meta)
    for what, counts in (("left out", meta.dropped), ("labels lowered", meta.fixed)):
        for reason, n in counts.items():
            console.print(f"{what}: {n:,} × {reason}", highlight=False)


def _rates(console: Console, name: str, meta: Meta) -> None:
    from rich.table import Table

    table = Table(title=name)
    table.add_column("split")
    table.add_column("rows", justify="right")
    for task in meta.parents:
        table.add_column(task, justify="right")
    for split in SPLITS:
        rows = meta.rows[split]
        rates = [f"{n:,} ({n / rows:.3%})" for n in meta.positives[split].values()]
        table.add_row(split, f"{rows:,}", *rates)
    console.print(table)


def _histories(console: Console, meta: Meta) -> None:
    """Mean length in each split, whole and of the last 50."""
    from rich.table import Table

    table = Table(title="histories and multi-valued fields: mean length (of the last 50), share of empty ones")
    table.add_column("name")
    table.add_column("ids stored", justify="right")
    for split in SPLITS:
        table.add_column(split, justify="right")
    stored = {**meta.histories, **meta.bags}
    for name, by_split in meta.statistics.get("history_lengths", {}).items():
        told = [f"{s['mean']:.2f} ({s['mean_of_last_50']:.2f}), {s['empty']:.0%}" for s in (by_split[split] for split in SPLITS)]
        table.add_row(name, f"{stored[name]['items']:,}", *told)
    console.print(table)


def _positions(console: Console, meta: Meta) -> None:
    """Positive rate by position in the user's list: a file that is not in time order shows here."""
    from rich.table import Table

    statistic = meta.statistics["rates_by_position"]
    table = Table(title="positive rate by position in the user's list")
    table.add_column("position", justify="right")
    table.add_column("rows", justify="right")
    for task in meta.parents:
        table.add_column(task, justify="right")
    for row in statistic:
        rates = [f"{row[task]:.3%}" for task in meta.parents]
        table.add_row(str(row["position"]), f"{row['rows']:,}", *rates)
    console.print(table)
