"""How seconds and memory grow with one size.

Two fits of each: y = a + b·x by relative least squares, which says what a row or an id costs on top of what is there anyway, and
the slope of the line through the logarithms, which says how the whole grows over the sizes that were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suite.results import Result, result

COLUMNS = {"seconds": "s", "peak_mb": "MB"}  # what is measured, and its unit
PER = {"rows": (1e6, "million rows"), "vocabulary": (1e6, "million ids")}  # of all else: one of it


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the logarithms: 1 is proportional, 0 is independent."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(a, b) of y = a + b·x with the least squares of relative errors."""
    b, a = np.polyfit(x, y, 1, w=1 / np.asarray(y))
    return float(a), float(b)


def summary(axis: str, measured: Sequence[Result]) -> Result:
    """Both fits of an axis, as an entry of their own."""
    x = [entry["value"] for entry in measured]
    fits = {key: (slope(x, y), told(axis, *line(x, y), unit)) for key, unit in COLUMNS.items() for y in [column(measured, key)]}
    (seconds, seconds_told), (mb, mb_told) = fits["seconds"], fits["peak_mb"]
    return result("scaling", axis=axis, detail=f"{seconds_told}; {mb_told}", seconds_slope=seconds, mb_slope=mb)


def column(measured: Sequence[Result], key: str) -> list[float]:
    """One value of all points."""
    return [entry[key] for entry in measured]


def told(axis: str, a: float, b: float, unit: str) -> str:
    """A fitted line in words: "1.2 s + 0.34 s per million rows"."""
    size, per = PER.get(axis, (1.0, axis.removesuffix("s")))
    return f"{_number(a)} {unit} {'-' if b < 0 else '+'} {_number(abs(b) * size)} {unit} per {per}"


def _number(x: float) -> str:
    """With three digits, and all that stand before the point."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def plot(path: Path, axis: str, measured: Sequence[Result]) -> None:
    """Seconds and MB with their fitted lines, on log-log axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

    x = [entry["value"] for entry in measured]
    between = np.geomspace(x[0], x[-1], 200)
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for panel, (key, unit), label in zip(panels, COLUMNS.items(), ("seconds of an epoch", "peak memory, MB"), strict=True):
        y = column(measured, key)
        a, b = line(x, y)
        panel.loglog(x, y, "o", color="C0")
        panel.loglog(between, a + b * between, "--", color="C7", label=told(axis, a, b, unit))
        panel.set_ylim(min(y) / 2, max(y) * 2)  # what does not grow shall look so
        panel.set_xlabel(axis)
        panel.set_ylabel(label)
        panel.set_xticks(x, minor=False)
        panel.set_xticks([], minor=True)
        plain = FuncFormatter(lambda value, _: f"{value:,g}")
        panel.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
        panel.yaxis.set_major_formatter(plain)
        panel.yaxis.set_minor_formatter(plain if max(y) < 10 * min(y) else NullFormatter())
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
