"""What a table says: numbers and where they come from, nothing of how they are shown.

`collect.py` fills it from finished runs; `markdown.py`, `csv_file.py`, `latex.py` and `html.py` show it; `table.json` is all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LEVEL = 0.05  # below it a difference is sure
LEVELS = ((0.01, "**"), (LEVEL, "*"))  # of the papers' stars


@dataclass(frozen=True)
class Published:
    """A printed value: the paper's mean, its deviation over seeds and its stars where it prints them."""

    value: float
    std: float | None = None
    stars: str = ""


@dataclass(frozen=True)
class Comparison:
    """One row of a table against another in one column, or one model against another in one metric of a task.

    Args:
        against: label of the other row, name of the other model.
        difference: this row's mean less the other's, in the column's unit.
        interval: 95 %, of the difference; None where the method gives none.
        p: two-sided; None where it cannot be had, and `note` says why.
        adjusted: p after Holm's correction over the comparisons of the column, or over the tasks; None where p is, or where there
            is one comparison.
        method: in words, "paired t-test over 5 seeds".
        note: why there is no p.
    """

    against: str
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None
    method: str
    note: str = ""

    @property
    def decisive(self) -> float | None:
        """The p to judge by."""
        return self.p if self.adjusted is None else self.adjusted

    @property
    def sure(self) -> bool:
        """Whether there is a difference."""
        return self.decisive is not None and self.decisive < LEVEL

    def stars(self, better: float) -> str:
        """`**` (p < 0.01), `*` (p < 0.05) where the row is better than the other one; `better` is +1, or -1 for a loss."""
        p = self.decisive
        if p is None or self.difference is None or self.difference * better <= 0:
            return ""
        return next((stars for level, stars in LEVELS if p < level), "")

    def mirrored(self, against: str) -> Comparison:
        """The same comparison from the other row's side."""
        difference = None if self.difference is None else -self.difference
        interval = None if self.interval is None else (-self.interval[1], -self.interval[0])
        return dataclasses.replace(self, against=against, difference=difference, interval=interval)


@dataclass(frozen=True)
class Column:
    """One metric of one task. `better` is +1 where more is better, -1 where less is, 0 where neither is."""

    key: str  # click.auc
    task: str
    metric: str  # auc | logloss | any other word of a table of data
    title: str
    better: int = 1


@dataclass(frozen=True)
class Cell:
    """One row in one column.

    Args:
        values: by seed, of the finished runs; None: undefined (a split with one class).
        mean, std: over the seeds; std is the sample's (n - 1), None for one seed. None where a value is undefined or there is none.
        gain: over the row that the part names, absolute or as a fraction (`Part.gain_kind`).
        place: 1 the best of the column, 2 the second; None any other.
        published: the paper's value.
        seeds_test: the paper's test, over seeds.
        rows_test: the same question on the test rows, for the mean over the seeds.
    """

    values: dict[int, float | None] = field(default_factory=dict)
    mean: float | None = None
    std: float | None = None
    gain: float | None = None
    place: int | None = None
    published: Published | None = None
    seeds_test: Comparison | None = None
    rows_test: Comparison | None = None


@dataclass(frozen=True)
class RunOfRow:
    """A run that the table asked for. `state` is runs.State, or `refused`; `why` says what there is to say of one not finished."""

    seed: int
    path: str
    state: str
    why: str = ""
    mlflow_run_id: str = ""


@dataclass(frozen=True)
class Row:
    """One system.

    Args:
        label: the paper's word.
        ours: whether the paper proposes it.
        overrides: what makes its run, beside the table's and the part's.
        model, loss: names in the config; empty where the row is no run.
        config_hash: of its runs, less the seed: all have the same.
        config: what is hashed, {} where the row is no run.
        cells: by the column's key; a column that the row has not (a task that was removed) is missing.
        runs: all seeds that were asked for.
        efficiency: means over the finished runs: params, params_mb, epoch_seconds, train_rows_per_second, test_seconds,
            test_rows_per_second; what is not known is missing.
        reliability: {task: [[mean prediction, observed rate, rows], …]} of tenths of the test rows, first seed.
        training: {metric: {seed: [[step, value], …]}} of `train/loss` and `val/auc/<task>`.
    """

    label: str
    ours: bool = False
    overrides: tuple[str, ...] = ()
    model: str = ""
    loss: str = ""
    config_hash: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    runs: tuple[RunOfRow, ...] = ()
    efficiency: dict[str, float] = field(default_factory=dict)
    reliability: dict[str, list[list[float]]] = field(default_factory=dict)
    training: dict[str, dict[int, list[list[float]]]] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[RunOfRow, ...]:
        """The runs without a result."""
        return tuple(run for run in self.runs if run.state != "finished")


@dataclass(frozen=True)
class Part:
    """The rows on one dataset.

    Args:
        name: of the part in the table's YAML.
        dataset: its name.
        data_version: checksum of the data; all runs of the part are of these data.
        simulated: whether the data come from a simulator.
        rows, positives: of each split; `positives["test"]["click"]`.
        columns: in their order.
        table_rows: in the paper's order.
        gain_over, gain_kind: label of the row, and `absolute` or `relative`; empty: no gains.
        oracle: by column key, what the true probabilities reach; {} on real data.
        comparable: whether the published values are of the same data under the same protocol.
        remarks: what has to be known to read it: why values are not comparable, what is open in the paper.
        clusters: what the test on rows takes as independent, "13,000 users (field 101)" or "10,000 rows".
        measure: what the numbers are where they are no metrics of runs (measures.py).
    """

    name: str
    dataset: str
    data_version: str
    simulated: bool
    rows: dict[str, int]
    positives: dict[str, dict[str, int]]
    columns: tuple[Column, ...]
    table_rows: tuple[Row, ...]
    gain_over: str = ""
    gain_kind: str = ""
    oracle: dict[str, float | None] = field(default_factory=dict)
    comparable: bool = False
    remarks: tuple[str, ...] = ()
    clusters: str = ""
    measure: str = ""

    def column(self, key: str) -> Column:
        return next(column for column in self.columns if column.key == key)


@dataclass(frozen=True)
class Table:
    """A whole table.

    Args:
        name: of its YAML.
        title: of the report.
        paper, where: key in `papers.PAPERS` (empty: of no paper), and the number there, "Table 2".
        about: what the paper did, what was decided.
        seeds: that were asked for.
        command: that made it.
        made: time, UTC, ISO 8601.
        versions: of seqmtl, Python, torch and what else counts.
        git_commit: of the code.
        machine: cores and accelerators, in words.
        parts: in their order.
    """

    name: str
    title: str
    paper: str
    where: str
    about: str
    seeds: tuple[int, ...]
    command: str
    made: str
    versions: dict[str, str]
    git_commit: str
    machine: str
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain containers, as they stand in table.json."""
        return dataclasses.asdict(self)

    @property
    def incomplete(self) -> Iterator[tuple[Part, Row, RunOfRow]]:
        """Every run without a result."""
        for part in self.parts:
            for row in part.table_rows:
                for run in row.missing:
                    yield part, row, run


def table_from_json(content: Mapping[str, Any]) -> Table:
    """The inverse of `Table.to_json` after a passage through JSON (keys that are numbers come back as numbers)."""
    parts = tuple(_part(part) for part in content["parts"])
    return Table(**{**content, "seeds": tuple(content["seeds"]), "parts": parts})


def _part(content: Mapping[str, Any]) -> Part:
    columns = tuple(Column(**column) for column in content["columns"])
    rows = tuple(_row(row) for row in content["table_rows"])
    return Part(**{**content, "columns": columns, "table_rows": rows, "remarks": tuple(content["remarks"])})


def _row(content: Mapping[str, Any]) -> Row:
    training = {name: {int(seed): points for seed, points in seeds.items()} for name, seeds in content["training"].items()}
    made = {
        "overrides": tuple(content["overrides"]),
        "cells": {key: _cell(cell) for key, cell in content["cells"].items()},
        "runs": tuple(RunOfRow(**run) for run in content["runs"]),
        "training": training,
    }
    return Row(**{**content, **made})


def _cell(content: Mapping[str, Any]) -> Cell:
    made: dict[str, Any] = {"values": {int(seed): value for seed, value in content["values"].items()}}
    if content["published"] is not None:
        made["published"] = Published(**content["published"])
    for test in ("seeds_test", "rows_test"):
        if content[test] is not None:
            interval = content[test]["interval"]
            made[test] = Comparison(**{**content[test], "interval": None if interval is None else tuple(interval)})
    return Cell(**{**content, **made})
