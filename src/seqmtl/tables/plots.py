"""The plots of a report: seeds per row, ranks, calibration, training and efficiency. Each is one SVG element of `svg.WIDTH`.

Panels are elements of their own, so that a page lays them side by side on a desk and below each other on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seqmtl.statistics.mean import mean_and_std
from seqmtl.tables import formats
from seqmtl.tables.content import Cell, Column, Part, Row
from seqmtl.tables.ranking import Ranking
from seqmtl.tables.svg import BLUE, COLOURS, GREY, INK, VERMILION, WIDTH, figure, style, svg

LINE = 21  # pixels of a row
LABEL = 20  # characters
MOST_COLOURED = 7
POINTS = 6000  # of all curves of a panel
SMALL = 0.05  # rates below it are drawn on logarithmic axes
WIDE = 30.0  # largest by smallest value of a logarithmic axis: above, only powers of ten are named
EFFICIENCY = {
    "epoch_seconds": "Seconds per epoch",
    "train_rows_per_second": "Training rows per second",
    "test_seconds": "Seconds of the test",
    "test_rows_per_second": "Test rows per second",
    "params_mb": "Memory of the parameters, MB",
}


def seeds_plot(part: Part, column: Column, name: str) -> str:
    """A dot per seed, the mean and its 95 % interval (Student's t) for each row; the oracle as a line. Empty without values."""
    found = [(row, _known(row.cells.get(column.key))) for row in part.table_rows]
    rows = [(row, values) for row, values in found if values]
    if not rows:
        return ""
    every = [value for _, values in rows for value in values]
    low, high = min(every), max(every)
    span = (high - low) or abs(high) * 0.01 or 1.0
    with style():
        bottom = 26 if part.oracle.get(column.key) is None else 44
        drawing, axes = figure(28 + bottom + LINE * len(rows), _labels_width(row.label for row, _ in rows), bottom)
        for i, (row, values) in enumerate(rows):
            colour = VERMILION if row.ours else BLUE
            mean, half = float(np.mean(values)), half_interval(values)
            if half is not None:
                # Of two seeds it may be ten times as wide as all that is to be seen.
                left, right = max(mean - half, low - span), min(mean + half, high + span)
                axes.plot([left, right], [i, i], color=colour, linewidth=2, alpha=0.6, solid_capstyle="butt")
                for edge, cut, marker in ((left, mean - half, "<"), (right, mean + half, ">")):
                    if not math.isclose(edge, cut):
                        axes.plot([edge], [i], marker=marker, color=colour, markersize=6)
            axes.plot(values, [i] * len(values), "o", color=colour, markersize=4.5, alpha=0.75, markeredgewidth=0)
            axes.plot([mean], [i], "|", color=colour, markersize=13, markeredgewidth=2.5)
            printed = None if (cell := row.cells[column.key]).published is None else cell.published
            if part.comparable and printed is not None and low - span <= printed.value <= high + span:
                axes.plot([printed.value], [i], "D", color=INK, markersize=5, markerfacecolor="none")
        _oracle_line(axes, part, column, (low, high, span))
        _rows_axis(axes, [row.label for row, _ in rows])
        axes.set_title(column.title)
        axes.locator_params(axis="x", nbins=4 if (formats.decimals(part, column) or 4) < 6 else 3)
        words = f"{column.title} by seed: " + "; ".join(f"{row.label} {np.mean(values):.4g}" for row, values in rows)
        return svg(drawing, name, words)


def half_interval(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean by Student's t; None of one value."""
    from scipy.stats import t

    n, (_, std) = len(values), mean_and_std(values)
    return None if std is None else float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)


def ranks_plot(ranking: Ranking, ours: Sequence[str], name: str) -> str:
    """Average rank of each row, the best at the top, with a bar of the critical difference's length: bars apart differ."""
    order = np.argsort(ranking.ranks, kind="stable")
    labels = [ranking.labels[i] for i in order]
    with style():
        drawing, axes = figure(74 + LINE * len(labels), _labels_width(labels))
        best = float(ranking.ranks.min()) + ranking.difference / 2
        axes.axvspan(1, max(1.0, best), color=GREY, alpha=0.15, linewidth=0)
        for i, index in enumerate(order):
            rank, colour = float(ranking.ranks[index]), VERMILION if ranking.labels[index] in ours else BLUE
            ends = [rank - ranking.difference / 2, rank + ranking.difference / 2]
            axes.plot(ends, [i, i], color=colour, linewidth=2.5, alpha=0.55, solid_capstyle="butt")
            axes.plot([rank], [i], "o", color=colour, markersize=6)
        _rows_axis(axes, labels)
        axes.set_xlim(0.8, len(labels) + 0.2)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(f"average rank; bars: {ranking.difference:.2f}, the critical difference", fontsize=10)
        axes.set_title(f"Ranks by {ranking.metric}")
        words = "average ranks: " + "; ".join(f"{ranking.labels[i]} {ranking.ranks[i]:.2f}" for i in order)
        return svg(drawing, name, words)


def reliability_plot(part: Part, task: str, name: str) -> str:
    """Observed rate over mean prediction by tenths of the test rows; logarithmic where rates are small. Empty without points."""
    rows = [row for row in part.table_rows if row.reliability.get(task)]
    points = {row.label: [p for p in row.reliability[task] if None not in p[:2]] for row in rows}
    flat = [value for some in points.values() for p in some for value in p[:2] if value > 0]
    if not flat:
        return ""
    low, high = min(flat), max(flat)
    log = float(np.median(flat)) < SMALL
    with style():
        drawing, axes = figure(WIDTH - 4 + _legend_height(part, rows), bottom=48 + _legend_height(part, rows))
        if log:
            axes.set(xscale="log", yscale="log")
            limits = (low / 1.5, high * 1.5)
        else:
            limits = (0.0, min(1.0, high * 1.08))
        axes.plot(limits, limits, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.7)
        for row, look in zip(rows, _looks(part, rows), strict=True):
            x, y = ([p[i] for p in points[row.label]] for i in (0, 1))
            seen = [(a, b) for a, b in zip(x, y, strict=True) if not log or (a > 0 and b > 0)]
            axes.plot(*zip(*seen, strict=True), **({"marker": "o", "markersize": 3.5} | look)) if seen else None
        axes.set(xlim=limits, ylim=limits, xlabel="mean prediction", ylabel="observed rate")
        _plain_ticks(axes, log)
        axes.set_title(f"{task}: calibration")
        _legend(drawing, part, rows)
        return svg(drawing, name, f"calibration of {task}: observed rate over mean prediction by tenths of the test rows")


def training_plot(part: Part, metric: str, name: str) -> str:
    """The curves of all seeds: by epoch where the metric is of the validation, by step otherwise. Empty without points."""
    rows = [row for row in part.table_rows if any(row.training.get(metric, {}).values())]
    if not rows:
        return ""
    validation = "val/" in metric
    most = max(30, POINTS // sum(len(row.training[metric]) for row in rows))
    with style():
        drawing, axes = figure(250 + _legend_height(part, rows), bottom=48 + _legend_height(part, rows))
        for row, look in zip(rows, _looks(part, rows), strict=True):
            for i, points in enumerate(row.training[metric].values()):
                known = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
                x, y = thinned(range(1, len(known) + 1) if validation else [p[0] for p in known], [p[1] for p in known], most)
                once = look | {"label": look["label"] if i == 0 else "_"}
                axes.plot(x, y, **({"marker": "o" if len(x) <= 30 else "", "markersize": 3} | once))
        axes.set_xlabel("epoch" if validation else "step")
        axes.locator_params(axis="both", nbins=6)
        if validation:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(metric)
        _legend(drawing, part, rows)
        return svg(drawing, name, f"{metric} during training")


def thinned(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """At most `most` points: the means of runs of neighbours."""
    if len(x) <= most:
        return list(x), list(y)
    parts = np.array_split(np.arange(len(x)), most)
    return [float(np.mean([x[i] for i in some])) for some in parts], [float(np.mean([y[i] for i in some])) for some in parts]


def efficiency_plot(part: Part, key: str, name: str) -> str:
    """Bars of one quantity of `EFFICIENCY`. Empty where no row has it."""
    rows = [row for row in part.table_rows if row.efficiency.get(key) is not None]
    if not rows:
        return ""
    values = [row.efficiency[key] for row in rows]
    with style():
        drawing, axes = figure(36 + LINE * len(rows), _labels_width(row.label for row in rows), bottom=6)
        bars = axes.barh(range(len(rows)), values, height=0.62, color=[VERMILION if row.ours else BLUE for row in rows])
        axes.bar_label(bars, [formats.amount(value) for value in values], padding=4, fontsize=10)
        _rows_axis(axes, [row.label for row in rows])
        axes.set_xlim(0, (max(values) or 1) * 1.3)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_title(EFFICIENCY[key])
        words = "; ".join(f"{row.label} {formats.amount(value)}" for row, value in zip(rows, values, strict=True))
        return svg(drawing, name, f"{EFFICIENCY[key]}: {words}")


def _known(cell: Cell | None) -> list[float]:
    return [] if cell is None else [value for value in cell.values.values() if value is not None]


def _labels_width(labels: Iterable[str]) -> float:
    """Pixels for labels beside the axes, in the widest of the usual fonts."""
    return 16 + 6.6 * max(len(formats.shortened(label, LABEL)) for label in labels)


def _rows_axis(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [formats.shortened(label, LABEL) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first row at the top
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _oracle_line(axes: Any, part: Part, column: Column, seen: tuple[float, float, float]) -> None:
    low, high, span = seen
    oracle = part.oracle.get(column.key)
    if oracle is None:
        return
    if low - span <= oracle <= high + span:
        axes.axvline(oracle, color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)
        axes.set_xlabel(f"dashed: oracle {formats.number(oracle, formats.decimals(part, column))}")
    else:
        axes.set_xlabel(f"oracle, outside: {formats.number(oracle, formats.decimals(part, column))}")


def _coloured(part: Part) -> list[str]:
    """Labels of the rows with a colour of their own, the paper's first: all of few, else the best and the reference, too."""
    rows = part.table_rows
    chosen = [row for row in rows if row.ours]
    chosen += [row for row in rows if any(cell.place == 1 for cell in row.cells.values())]
    chosen += [row for row in rows if row.label == part.gain_over]
    chosen += [row for row in rows if any(cell.place == 2 for cell in row.cells.values())]
    labels = list(dict.fromkeys(row.label for row in chosen))
    if len(rows) <= MOST_COLOURED:
        return list(dict.fromkeys([*labels, *(row.label for row in rows)]))
    return labels[: MOST_COLOURED - 1]


def _looks(part: Part, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Colour, dashes and label of each row's line; the label starts with _ where the legend leaves it out."""
    labels = _coloured(part)
    looks: list[dict[str, Any]] = []
    for row in rows:
        if row.label not in labels:
            looks.append({"color": GREY, "linewidth": 0.9, "alpha": 0.45, "label": "_", "zorder": 1, "markersize": 0})
            continue
        i = labels.index(row.label)
        dashes = ("-", (0, (5, 2)), (0, (1.5, 1.5)))[i // 3]
        shown = formats.shortened(row.label, LABEL)
        looks.append({"color": COLOURS[i], "linestyle": dashes, "alpha": 0.9, "label": shown, "zorder": 3})
    return looks


def _grey(part: Part, rows: Sequence[Row]) -> int:
    return sum(row.label not in _coloured(part) for row in rows)


def _legend_height(part: Part, rows: Sequence[Row]) -> float:
    grey = _grey(part, rows)
    return 20.0 * math.ceil((len(rows) - grey + bool(grey)) / 2)


def _legend(drawing: Any, part: Part, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    handles, labels = drawing.axes[0].get_legend_handles_labels()
    if grey := _grey(part, rows):
        handles, labels = [*handles, Line2D([], [], color=GREY, linewidth=0.9)], [*labels, f"{grey} other rows"]
    drawing.legend(handles, labels, loc="lower center", ncols=2, borderaxespad=0.2, columnspacing=1.5, handlelength=2.2)


def _plain_ticks(axes: Any, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if log:
            low, high = axis.get_view_interval()
            few = low > 0 and high / low < WIDE
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=6))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
