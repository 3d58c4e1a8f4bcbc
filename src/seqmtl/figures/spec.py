"""conf/figure/<name>.yaml: which runs a figure needs, how it is drawn, and with which sample sizes.

title: AITM (KDD 2021), Figure 5
paper: aitm                          # key of papers.PAPERS
where: Figure 5
about: what the paper shows, what it leaves open, what was decided
draw: curves                         # one of kinds.KINDS
dataset: finance_sim                 # unless dataset=NAME says another
seeds: [1, 2, 3, 4, 5]
trains: true                         # false: the runs are only composed, for what their configs say
overrides: [experiment=aitm]         # of every run
rows:
  AITM: [model=aitm]
panels:                              # each row at each point of each panel; without panels each row is one run
  a: {title: (a), axis: d, key: model.dim, values: [1, 5, 10], scale: log}
  c: {title: (c), axis: λ, key: dataset.downsample.rate, values: [0.01], natural: activation, optional: true}
  d: {title: (d), points: {all: [], activation: [model=single_task, "dataset.tasks=[activation]"]}, tasks: [activation]}
options: {positives: 500}            # changed by figure.positives=100
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from seqmtl.errors import SeqmtlError

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
            if key not in self.options:
                known = [*self.options, *(["panels"] if self.panels else [])]
                raise SeqmtlError(f"{self.name} has no option figure.{key}; it has {', '.join(known) or 'none'}")
            if not _same_kind(value, self.options[key]):
                raise SeqmtlError(f"figure.{key} must be like {self.options[key]!r}, not {value!r}")
            options[key] = value
        return replace(self, options=options, panels=panels)

    def _chosen(self, names: Sequence[Any]) -> tuple[Panel, ...]:
        unknown = [str(name) for name in names if name not in [panel.name for panel in self.panels]]
        if unknown or not names:
            there = ", ".join(panel.name for panel in self.panels)
            raise SeqmtlError(f"{self.name} has no panel {', '.join(unknown)}; figure.panels chooses from {there}")
        return tuple(panel for panel in self.panels if panel.name in names)


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int | float):
        whole = isinstance(value, int) or (isinstance(default, float) and isinstance(value, float))
        return whole and value >= 0
    return isinstance(value, type(default))


def figure_files(folders: Sequence[Path]) -> dict[str, Path]:
    """{name: its YAML} in the conf folders; a user's own folder comes later and wins."""
    return {path.stem: path for folder in folders for path in sorted((folder / "figure").glob("*.yaml"))}


def read_figure(name: str, folders: Sequence[Path]) -> FigureSpec:
    """The figure of that name.

    Raises:
        SeqmtlError: there is none, or its YAML is wrong; says where.
    """
    found = figure_files(folders)
    if name not in found:
        raise SeqmtlError(f"there is no figure '{name}'; there are {', '.join(found)}")
    try:
        content = yaml.safe_load(found[name].read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise SeqmtlError(f"{found[name]} cannot be read: {e}") from e
    try:
        return _figure(name, content)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise SeqmtlError(f"{found[name]} is no figure: {type(e).__name__}: {e}") from e


def _figure(name: str, content: Mapping[str, Any]) -> FigureSpec:
    _refuse_unknown(name, content, KNOWN)
    rows = {str(label): tuple(overrides) for label, overrides in content["rows"].items()}
    given = content["datasets"]
    datasets = {name: tuple(given[name] or ()) if isinstance(given, Mapping) else () for name in given}
    if not rows or not datasets:
        raise ValueError("it has no rows, or no dataset")
    return FigureSpec(
        name=name,
        title=content["title"],
        paper=content.get("paper") or "",
        where=content.get("where") or "",
        about=" ".join((content.get("about") or "").split()),
        draw=content["draw"],
        dataset=next(iter(datasets)),
        of_dataset=datasets,
        seeds=tuple(content.get("seeds") or (1,)),
        trains=content.get("trains", True),
        overrides=tuple(content.get("overrides") or ()),
        rows=rows,
        panels=tuple(_panel(str(key), panel) for key, panel in (content.get("panels") or {}).items()),
        options=content.get("options") or {},
    )


def _panel(name: str, given: Mapping[str, Any]) -> Panel:
    _refuse_unknown(f"panel {name}", given, KNOWN_OF_PANEL)
    points = {str(label): tuple(overrides) for label, overrides in (given.get("points") or {}).items()}
    key, natural = given.get("key") or "", given.get("natural") or ""
    if bool(points) == bool(key):
        raise ValueError(f"panel {name} has either points, or a key and its values")
    if key:
        points = {f"{value:g}": (f"{key}={value}",) for value in given["values"]}
    if natural:
        points = {NATURAL: ("dataset.downsample=null",), **points}
    scale = given.get("scale") or ("linear" if key else "categories")
    if scale not in SCALES:
        raise ValueError(f"panel {name}: scale must be one of {', '.join(SCALES)}, not {scale}")
    return Panel(
        name=name,
        points=points,
        title=given.get("title") or "",
        axis=given.get("axis") or key,
        scale=scale,
        key=key,
        natural=natural,
        optional=bool(given.get("optional")),
        tasks=tuple(given.get("tasks") or ()),
    )


def _refuse_unknown(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{what} has {', '.join(unknown)}, which nothing reads; it may have {', '.join(sorted(known))}")
