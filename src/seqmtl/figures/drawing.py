"""What all pictures have in common: size, colours, captions, and files that are the same each time."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seqmtl.disk import write_file
from seqmtl.figures.points import Points

# Okabe and Ito's, which people who are colour-blind can tell apart; orange and blue first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DPI = 150
LETTER = 0.056  # inches that a letter of a caption takes


def panels(rows: int, columns: int, title: str, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows × columns panels, `width` × `height` inches each."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(title, fontsize=11)
    return figure, [list(row) for row in axes]


def caption(figure: Figure, notes: Sequence[str]) -> None:
    """The notes below the picture."""
    width = max(40, int(figure.get_figwidth() / LETTER))
    text = "\n".join(line for note in notes for line in textwrap.wrap(note, width))
    figure.supxlabel(text, fontsize=7, x=0.01, ha="left")


def cloud(axes: Axes, frame: pl.DataFrame, column: str, groups: Mapping[Any, tuple[str, int]], size: float = 6.0) -> None:
    """The points x, y of a map; their places alone mean nothing, so there are no ticks.

    Args:
        column: which tells the group of each point.
        groups: {value of the column: (its name, number of its colour)}.

    In random order: drawn one group after another, the last would hide the others.
    """
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=0)
    colours = [COLOURS[groups[group][1] % len(COLOURS)] for group in shuffled[column].to_list()]
    axes.scatter(shuffled["x"].to_list(), shuffled["y"].to_list(), s=size, c=colours, alpha=0.6, linewidths=0)
    for name, number in groups.values():
        axes.scatter([], [], s=20, c=COLOURS[number % len(COLOURS)], label=name, linewidths=0)  # for the legend
    axes.set_xticks([])
    axes.set_yticks([])


def band(axes: Axes, x: Sequence[float], mean: Sequence[float], std: Sequence[float], label: str, number: int) -> None:
    """Means with the shaded part one standard deviation to each side."""
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(x, mean, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=4, label=label)
    low, high = ([m + side * s for m, s in zip(mean, std, strict=True)] for side in (-1, 1))
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def legend(axes: Axes, **options: Any) -> None:
    """Inside, where it hides least."""
    axes.legend(fontsize=8, framealpha=0.8, **options)


def pictures(figure: Figure, name: str) -> Mapping[str, bytes]:
    """{ending: bytes} of the picture as png and svg: without times, and with ids that depend on the name alone."""
    made = {}
    with rc_context({"svg.hashsalt": name}):
        for ending, more in (("png", {"dpi": DPI, "metadata": {"Software": None}}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, **more)
            made[ending] = buffer.getvalue()
    return made


def write(folder: Path, name: str, points: Points, figure: Figure) -> list[Path]:
    """The csv, png and svg of a figure, each as a whole or not at all.

    Raises:
        SeqmtlError: the disk refuses.
    """
    files = {"csv": points.to_csv().encode(), **pictures(figure, name)}
    paths = [folder / f"{name}.{ending}" for ending in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_file(path, content)
    return paths
