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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NATURAL = "natural"  # the point of a panel of shares at which nothing is left out


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
