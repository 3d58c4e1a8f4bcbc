"""Drawings as SVG that stands inside an HTML page: no prolog, no link, text as text in the page's font, ids of its own.

Unusual: what is drawn in `INK` becomes `currentColor`, so that it is dark on a light page and light on a dark one. The same figure
gives the same text: matplotlib's ids and the last digits of its coordinates do not stay in it.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK = "#010203"
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY = "#2f86c8", "#d8602a", "#0a9b74", "#d98200", "#c072a8", "#4db3e6", "#8a9199"
COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, INK)  # after Okabe and Ito: told apart by colour-blind readers, too
WIDTH = 364  # CSS pixels: three beside each other on a desk, one on a phone

TAG = re.compile(r"<[^>]+>")  # what stands between tags are labels: not to be touched
REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')

_STYLE: dict[str, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "seqmtl", "font.size": 11, "axes.titlesize": 12, "legend.fontsize": 10},
    **{"text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK},
    **{"ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True},
    **{"grid.color": INK, "grid.alpha": 0.12, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none"},
    **{"axes.titlelocation": "left", "axes.formatter.useoffset": False, "lines.linewidth": 1.6, "axes.linewidth": 0.8},
    "text.parse_math": False,  # a row may be called $x$
}


@contextmanager
def style() -> Iterator[None]:
    """Inside it figures look as they do in a report, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(height: float, left: float = 60, bottom: float = 44) -> tuple[Figure, Any]:
    """A figure of `WIDTH` and so many CSS pixels, and its axes with room for a title.

    Args:
        left, bottom: pixels for what stands beside and below the axes. (Layout engines draw everything twice.)
    """
    made = Figure(figsize=(WIDTH / 72, height / 72))
    top, right = 28, 16
    sizes = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
    return made, made.add_axes(sizes)


def svg(drawing: Figure, name: str, words: str) -> str:
    """The element.

    Args:
        name: unique in the page.
        words: what is to be seen, for who does not see it.
    """
    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=True)
    text = out.getvalue()
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert found is not None  # matplotlib writes it always
    width, height = (round(float(size)) for size in found.groups())
    body = re.sub(r"<style.*?</style>", "", text[text.index(">", text.index("<svg")) + 1 :], flags=re.S)
    used = dict.fromkeys(found[1] for tag in TAG.findall(body) for found in REFERENCE.finditer(tag))
    numbers = {old: f"{name}-{i}" for i, old in enumerate(used)}
    body = TAG.sub(lambda tag: _tidy(tag[0], numbers), body)
    body = re.sub(r">\s+<", "><", body).strip()
    head = f'<svg class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    return f'{head} aria-label="{html.escape(words)}">{body}'


def _tidy(tag: str, numbers: Mapping[str, str]) -> str:
    """Ids that nothing refers to go, the others get their number; short coordinates; the page's font and colour."""

    def rounded(attribute: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d+", lambda number: f"{round(float(number[0]), 1) + 0:g}", attribute[0])

    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r' id="([^"]+)"', lambda found: f' id="{numbers[found[1]]}"' if found[1] in numbers else "", tag)
    tag = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{numbers[found[1]]})", tag)
    tag = re.sub(r'xlink:href="#([^"]+)"', lambda found: f'href="#{numbers[found[1]]}"', tag)
    tag = re.sub(r' (?:d|x|y|transform)="[^"]*"', rounded, tag)
    tag = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", tag)
    return re.sub(r"font-family: [^;\"]*;? ?", "", tag).replace(INK, "currentColor")
