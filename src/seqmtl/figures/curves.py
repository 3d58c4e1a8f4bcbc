"""AUC over what is changed: AITM's Figure 5 and DTRN's Figure 4. Mean over the seeds, the shaded part one standard deviation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from seqmtl.data.prepared import open_dataset
from seqmtl.figures import drawing
from seqmtl.figures.points import Points
from seqmtl.figures.runs import Made
from seqmtl.figures.spec import NATURAL, FigureSpec, Panel
from seqmtl.statistics.mean import mean_and_std

COLUMNS = 4
SCHEMA = {"panel": pl.String, "row": pl.String, "point": pl.String, "x": pl.Float64, "task": pl.String}
SCHEMA |= {"mean": pl.Float64, "std": pl.Float64, "seeds": pl.Int64, "values": pl.String}


def points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """A line for each panel, point, row and task: mean, deviation (0 with one seed) and the value of each seed."""
    by_panel = {panel.name: panel for panel in spec.panels}
    groups: dict[tuple[str, str, str], list[Made]] = defaultdict(list)
    for made in runs:
        groups[made.wanted.panel, made.wanted.row, made.wanted.point].append(made)
    lines, undefined = [], []
    for (name, row, point), some in groups.items():
        panel = by_panel[name]
        for task in some[0].config["dataset"]["tasks"]:
            if panel.tasks and task not in panel.tasks:
                continue
            values = {made.seed: made.metrics.get(f"test/auc/{task}") for made in some}
            mean, std = mean_and_std([*values.values()])
            if mean is None:
                undefined.append(f"({name}) {row} {point} {task}")
                continue
            found = {"panel": name, "row": row, "point": point, "x": _x(panel, point, some[0]), "task": task}
            shown = " ".join(f"{seed}:{value:.6f}" for seed, value in values.items())
            lines.append(found | {"mean": mean, "std": std or 0.0, "seeds": len(values), "values": shown})
    seeds = sorted({made.seed for made in runs})
    dataset = runs[0].config["dataset"]["name"]
    notes = [
        f"AUC on the test rows of {dataset}, seeds {', '.join(map(str, seeds))}; shaded: one standard deviation over the seeds."
    ]
    if len(seeds) == 1:
        notes.append("One seed: there is no deviation.")
    if undefined:
        notes.append(f"No AUC, as the test rows have one class: {', '.join(undefined)}.")
    return Points(pl.DataFrame(lines, schema=SCHEMA), tuple(notes))


def _x(panel: Panel, point: str, made: Made) -> float:
    """Where a point stands: its value, a share of positives in training, or its number."""
    if point == NATURAL:
        _, meta = open_dataset(made.config)
        return meta.positives["train"][panel.natural] / meta.rows["train"]
    return float(point) if panel.key else float(list(panel.points).index(point))


def draw(points: Points, spec: FigureSpec) -> Figure:
    shown = [panel for panel in spec.panels if len(points.frame.filter(panel=panel.name))]
    by_task = len(spec.rows) > 1  # several systems: a panel of its own for each task, else lines of all tasks in one
    cells = [(p, task) for p in shown for task in (_tasks(points, p) if by_task else [""])]
    columns = min(len(cells), 2 if len(cells) == COLUMNS else COLUMNS)
    figure, axes = drawing.panels(-(-len(cells) // columns), columns, spec.title, 4.2, 3.3)
    every = points.frame["task"].unique(maintain_order=True).to_list()
    places = [here for row in axes for here in row]
    for here, (panel, task) in zip(places, cells, strict=False):
        some = points.frame.filter(panel=panel.name)
        if by_task:
            lines = [(row, some.filter(task=task, row=row)) for row in spec.rows]
        else:
            lines = [(name, some.filter(task=name)) for name in every]
        for number, (label, line) in enumerate(lines):  # a task has the same colour in all panels
            if len(line):
                _line(here, panel, line, label, number)
        _axis(here, panel, some)
        here.set_title(task if by_task else panel.title, fontsize=9)
        here.set_ylabel("AUC")
        drawing.legend(here)
    for here in places[len(cells) :]:
        here.set_visible(False)
    drawing.caption(figure, points.notes)
    return figure


def _line(here: Axes, panel: Panel, line: pl.DataFrame, label: str, number: int) -> None:
    x, mean, std = (line.sort("x")[name].to_list() for name in ("x", "mean", "std"))
    if panel.scale != "categories":
        drawing.band(here, x, mean, std, label, number)
        return
    colour, marker = drawing.COLOURS[number % len(drawing.COLOURS)], drawing.MARKERS[number % len(drawing.MARKERS)]
    here.errorbar(x, mean, yerr=std, color=colour, marker=marker, markersize=5, linestyle="", capsize=3, label=label)


def _axis(here: Axes, panel: Panel, some: pl.DataFrame) -> None:
    """Ticks where the points are."""
    if panel.scale == "categories":
        here.set_xticks(range(len(panel.points)), [label.replace(" ", "\n") for label in panel.points], fontsize=7)
        here.set_xlim(-0.5, len(panel.points) - 0.5)
        return
    at = some["x"].unique().sort().to_list()
    if panel.scale == "log":
        here.set_xscale("log")
        here.xaxis.set_minor_locator(NullLocator())
        here.xaxis.set_minor_formatter(NullFormatter())
    here.set_xticks(at, [_tick(panel, value) for value in at], fontsize=7)
    here.set_xlabel(panel.axis)


def _tick(panel: Panel, value: float) -> str:
    return f"{100 * value:.3g} %" if panel.natural else f"{value:g}"


def _tasks(points: Points, panel: Panel) -> list[Any]:
    return points.frame.filter(panel=panel.name)["task"].unique(maintain_order=True).to_list()
