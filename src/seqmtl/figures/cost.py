"""Time and memory of models: APEM's Figure 8."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

import polars as pl
from matplotlib.figure import Figure

from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.figures import drawing
from seqmtl.figures.needs import MEASURED
from seqmtl.figures.points import Points
from seqmtl.figures.runs import Made
from seqmtl.figures.spec import FigureSpec


def points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """A line for each model: means over the seeds, rows per second beside them, and what the paper printed.

    Raises:
        SeqmtlError: a run has no time of an epoch.
    """
    groups: dict[str, list[Made]] = defaultdict(list)
    for made in runs:
        groups[made.wanted.row].append(made)
    published = spec.options.get("published", {})
    lines = []
    for row, some in groups.items():
        _, meta = open_dataset(some[0].config)
        numbers = {name: statistics.fmean(_measured(made, name) for made in some) for name in MEASURED}
        train = statistics.fmean(_measured(made, "train_rows_per_second") for made in some)
        line = {"row": row, **numbers, "train_rows_per_second": train}
        line["test_rows_per_second"] = meta.rows["test"] / numbers["test_seconds"]
        line |= {f"published_{name}": (published.get(row) or {}).get(name) for name in MEASURED}
        lines.append(line | {"seeds": len(some)})
    _, meta = open_dataset(runs[0].config)
    notes = [
        f"{runs[0].config['dataset']['name']}: {meta.rows['train']:,} training and {meta.rows['test']:,} test rows, batches of"
        f" {runs[0].config['batch_size']:,}.",
        "Inference is the reading and scoring of the test rows. MB: 2^20 bytes of float32 parameters.",
        "Times hold for the machine and the load that they were measured on.",
    ]
    floats = {name: pl.Float64 for name in lines[0] if name not in ("row", "seeds")}
    return Points(pl.DataFrame(lines, schema_overrides=floats), tuple(notes))


def _measured(made: Made, name: str) -> float:
    value = made.metrics.get(name) if name == "params_mb" else made.times.get(name)
    if value is None:
        raise SeqmtlError(f"the run of {made.label} tells no {name}: no epoch was trained as a whole, or it is of an old seqmtl")
    return float(value)


def draw(points: Points, spec: FigureSpec) -> Figure:
    figure, axes = drawing.panels(1, 3, spec.title, 3.6, 3.6)
    titles = ("(a) training, seconds an epoch", "(a) inference, seconds", "(b) memory, MB")
    rows = points.frame["row"].to_list()
    for here, name, title in zip(axes[0], MEASURED, titles, strict=True):
        values = points.frame[name].to_list()
        colours = [drawing.COLOURS[1] if row in spec.options["ours"] else drawing.COLOURS[0] for row in rows]
        bars = here.barh(range(len(rows)), values, color=colours)
        here.bar_label(bars, [f"{value:.3g}" for value in values], fontsize=7, padding=2)
        here.set_yticks(range(len(rows)), rows if here is axes[0][0] else [], fontsize=8)
        here.invert_yaxis()
        here.set_xlim(0, 1.18 * max(values))
        here.set_title(title, fontsize=9)
    drawing.caption(figure, points.notes)
    return figure
