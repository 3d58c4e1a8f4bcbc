"""The runs that a figure is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seqmtl.errors import SeqmtlError
from seqmtl.figures.inner import Inner
from seqmtl.figures.spec import Wanted
from seqmtl.runs import Run


@dataclass(frozen=True)
class Made:
    """A run that a figure wanted, of one seed; `run` is None where the figure trains nothing."""

    wanted: Wanted
    seed: int
    config: Mapping[str, Any]
    run: Run | None = None

    @property
    def label(self) -> str:
        return f"{self.wanted.label}, seed {self.seed}"

    @cached_property
    def metrics(self) -> Mapping[str, float | None]:
        """metrics.json."""
        return {} if self.run is None else self.run.metrics()

    @cached_property
    def times(self) -> Mapping[str, float]:
        """Seconds that its status.json tells."""
        return {} if self.run is None else self.run.status().get("times", {})

    def inner(self) -> Inner:
        """Its model and its test rows."""
        assert self.run is not None
        return Inner(self.run.path)


def one_of_each_row(runs: Sequence[Made]) -> dict[str, Made]:
    """The run of the first seed of each row: what shows single rows shows one model's."""
    first: dict[str, Made] = {}
    for made in runs:
        first.setdefault(made.wanted.row, made)
    return first


def the_run(runs: Sequence[Made]) -> Made:
    """The run of a figure of one model.

    Raises:
        SeqmtlError: it has several rows.
    """
    found = list(one_of_each_row(runs).values())
    if len(found) != 1:
        raise SeqmtlError(f"this figure shows one model; its YAML has the rows {', '.join(made.wanted.row for made in found)}")
    return found[0]


def where(made: Made) -> str:
    """A note: of which data and run the points are."""
    rows = "" if made.config["dataset"].get("prepare") is None else _simulated(made.config)
    return f"{made.wanted.row} on {made.config['dataset']['name']}{rows}, seed {made.seed}."


def _simulated(config: Mapping[str, Any]) -> str:
    return " (simulated)" if config["dataset"]["prepare"].get("simulate") else ""
