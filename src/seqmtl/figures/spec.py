"""conf/figure/<name>.yaml: which runs a figure needs, how it is drawn, and with which sample sizes.

title: AITM (KDD 2021), Figure 5
paper: aitm                          # key of papers.PAPERS
where: Figure 5
about: what the paper shows, what it leaves open, what was decided
draw: curves                         # one of needs.NEEDS
datasets: [finance_sim, aliccp]      # that it may be made on; the first unless dataset=NAME says another
seeds: [1, 2, 3, 4, 5]
trains: true                         # false: the runs are only composed, for what their configs say
overrides: [experiment=aitm]         # of every run
rows:
  AITM: [model=aitm]
panels:                              # each row at each point of each panel; without panels each row is one run
  a: {title: (a), axis: d, key: model.dim, values: [1, 5, 10], scale: log}
  c: {title: (c), axis: λ, key: dataset.downsample.rate, values: [0.01], natural: activation, optional: true}
  d: {title: (d), points: {all: [], activation: [model=single_task, "dataset.tasks=[activation]"]}, tasks: [activation]}
options: {}                          # of its kind, as positives: 500, which figure.positives=100 changes

Where a dataset needs words of its own, `datasets` is a mapping: {tenrec_sim: [batch_size=256], tenrec: []}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqmtl.entries import datasets, different, files, headings, mapping, read, refuse_unknown, seeds, strings, text, truth
from seqmtl.errors import SeqmtlError
from seqmtl.figures.needs import NEEDS, check_draw, check_options

NATURAL = "natural"  # the point of a panel of shares at which nothing is left out
KNOWN = {
    *("title", "paper", "where", "about", "draw", "datasets", "seeds", "trains", "overrides", "rows", "panels", "options"),
}
KNOWN_OF_PANEL = {"title", "axis", "scale", "key", "values", "natural", "points", "optional", "tasks"}
SCALES = ("linear", "log", "categories")


@dataclass(frozen=True)
class Panel:
    """A part of a figure with points along an axis.

    Args:
        name: its key in the YAML.
        points: {label: what makes its runs}.
        key: what the points change, where that is one key; their labels are its values then.
        scale: linear, log or categories.
        natural: the task whose negatives are thinned out along the axis; the point `natural` keeps all.
        optional: points whose runs are refused before they begin are left out, and named.
        tasks: that are shown; none: all.
    """

    name: str
    points: Mapping[str, tuple[str, ...]]
    title: str = ""
    axis: str = ""
    scale: str = "linear"
    key: str = ""
    natural: str = ""
    optional: bool = False
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """A run of a figure, less its seed. `panel` and `point` are empty in a figure without panels."""

    row: str
    overrides: tuple[str, ...]
    panel: str = ""
    point: str = ""
    optional: bool = False

    @property
    def label(self) -> str:
        """What people call it."""
        return " ".join(part for part in (f"({self.panel})" if self.panel else "", self.row, self.point) if part)


@dataclass(frozen=True)
class FigureSpec:
    """A figure's YAML, checked.

    Args:
        dataset: that it is made on.
        of_dataset: {dataset: overrides of the runs on it}.
    """

    name: str
    title: str
    paper: str
    where: str
    about: str
    draw: str
    dataset: str
    of_dataset: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    trains: bool
    overrides: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    panels: tuple[Panel, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def wanted(self) -> list[Wanted]:
        """The runs, less their seeds: panel by panel, point by point, in the order of the rows."""
        common = (*self.overrides, f"dataset={self.dataset}", *self.of_dataset.get(self.dataset, ()))
        if not self.panels:
            return [Wanted(row, (*common, *overrides)) for row, overrides in self.rows.items()]
        return [
            Wanted(row, (*common, *overrides, *more), panel.name, point, panel.optional)
            for panel in self.panels
            for point, more in panel.points.items()
            for row, overrides in self.rows.items()
        ]

    def with_options(self, given: Mapping[str, Any]) -> FigureSpec:
        """With other options; `panels` chooses some of the panels.

        Raises:
            SeqmtlError: there is no such option or panel, or the value is of another kind than the one that it replaces.
        """
        options, panels = dict(self.options), self.panels
        for key, value in given.items():
            if key == "panels" and self.panels:
                panels = self._chosen(value if isinstance(value, list) else [value])
                continue
            known = [*NEEDS[self.draw].known, *(["panels"] if self.panels else [])]
            if key not in known:
                raise SeqmtlError(f"{self.name} has no option figure.{key}; it has {', '.join(known) or 'none'}")
            options[key] = value
        changed = replace(self, options=options, panels=panels)
        try:
            check_options(changed, "figure.")
        except ValueError as e:
            raise SeqmtlError(str(e)) from e
        return changed

    def _chosen(self, names: Sequence[Any]) -> tuple[Panel, ...]:
        unknown = [str(name) for name in names if name not in [panel.name for panel in self.panels]]
        if unknown or not names:
            there = ", ".join(panel.name for panel in self.panels)
            raise SeqmtlError(f"{self.name} has no panel {', '.join(unknown)}; figure.panels chooses from {there}")
        return tuple(panel for panel in self.panels if panel.name in names)


def figure_files(folders: Sequence[Path]) -> dict[str, Path]:
    """{name: its YAML} in the conf folders."""
    return files("figure", folders)


def read_figure(name: str, folders: Sequence[Path]) -> FigureSpec:
    """The figure of that name.

    Raises:
        SeqmtlError: there is none, or its YAML is wrong; says where.
    """
    return read("figure", name, folders, _figure)


def _figure(name: str, content: Mapping[str, Any]) -> FigureSpec:
    refuse_unknown(name, content, KNOWN)
    rows = {label: strings(words, f"row {label}") for label, words in mapping(content["rows"], "rows").items()}
    if not rows:
        raise ValueError("it has no rows")
    of_dataset = datasets(content["datasets"])
    spec = FigureSpec(
        name=name,
        **headings(content),
        draw=text(content["draw"], "draw"),
        dataset=next(iter(of_dataset)),
        of_dataset=of_dataset,
        seeds=seeds(content.get("seeds"), (1,)),
        trains=truth(content.get("trains"), "trains", True),
        overrides=strings(content.get("overrides"), "overrides"),
        rows=rows,
        panels=tuple(_panel(key, panel) for key, panel in mapping(content.get("panels"), "panels").items()),
        options=mapping(content.get("options"), "options"),
    )
    check_draw(spec)
    return spec


def _panel(name: str, given: Mapping[str, Any]) -> Panel:
    what = f"panel {name}"
    refuse_unknown(what, given, KNOWN_OF_PANEL)
    key, natural = (text(given.get(one), f"{what}: {one}") for one in ("key", "natural"))
    points = {label: strings(words, f"{what}: {label}") for label, words in mapping(given.get("points"), f"{what}: points").items()}
    if bool(points) == bool(key):
        raise ValueError(f"{what} has either points, or a key and its values")
    scale = given.get("scale") or ("linear" if key else "categories")
    if scale not in SCALES:
        raise ValueError(f"{what}: scale must be one of {', '.join(SCALES)}, not {scale}")
    if key:
        points = {str(value): (f"{key}={value}",) for value in _values(given["values"], what, scale)}
    if natural:
        points = {NATURAL: ("dataset.downsample=null",), **points}
    return Panel(
        name=name,
        points=points,
        title=text(given.get("title"), f"{what}: title"),
        axis=text(given.get("axis"), f"{what}: axis") or key,
        scale=scale,
        key=key,
        natural=natural,
        optional=truth(given.get("optional"), f"{what}: optional"),
        tasks=different(given.get("tasks"), f"{what}: tasks"),
    )


def _values(given: Any, what: str, scale: str) -> list[float]:
    """Of a panel's key, where its points stand.

    Raises:
        ValueError: they are no different numbers, or the scale has no place for one.
    """
    values = given if isinstance(given, list) else []
    if not values or not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values):
        raise ValueError(f"{what}: values must be numbers, [1, 0.5, 1.0e-4] (YAML reads 1e-4 as text), not {given!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{what}: values must be different, not {given!r}")
    if scale == "log" and min(values) <= 0:
        raise ValueError(f"{what}: a log scale has no place for {min(values)}")
    return values
