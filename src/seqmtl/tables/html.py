"""report.html: one file that shows everything that a table knows; no script, and nothing is loaded from anywhere.

What is shown is chosen here; report.html.jinja lays it out. Autoescape is on: labels, reasons and configs are text.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from seqmtl.tables import formats, plots, words
from seqmtl.tables.configs import own_options
from seqmtl.tables.content import Column, Comparison, Part, Row, Table
from seqmtl.tables.ranking import CAUTION, FEWEST_SEEDS, FEWEST_SYSTEMS, rankings

EFFICIENCY = {
    "params": "parameters",
    "params_mb": "MB",
    "epoch_seconds": "s per epoch",
    "train_rows_per_second": "training rows/s",
    "test_seconds": "s of the test",
    "test_rows_per_second": "test rows/s",
}
DRAWN = ("epoch_seconds", "test_rows_per_second", "params_mb")  # as APEM's Figure 8: training, inference, memory


def html(table: Table) -> str:
    """The page."""
    return _template().render(
        table=table,
        citation=words.citation(table),
        parts=[_part(table, part, f"p{i}") for i, part in enumerate(table.parts)],
        runs=sum(len(row.runs) for part in table.parts for row in part.table_rows),
        incomplete=len(list(table.incomplete)),
        caution=CAUTION,
        fewest=(FEWEST_SYSTEMS, FEWEST_SEEDS),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("seqmtl", "tables"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.jinja")


def _part(table: Table, part: Part, name: str) -> dict[str, Any]:
    tasks = list(dict.fromkeys(task for row in part.table_rows for task in row.reliability))
    curves = sorted({metric for row in part.table_rows for metric in row.training}, key=lambda m: ("val/" not in m, m))
    made = rankings(part)
    ours = [row.label for row in part.table_rows if row.ours]
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", part.name.lower()).strip("-") + f"-{name}",
        "part": part,
        "has_runs": any(row.runs for row in part.table_rows),
        "head": [_head(part, column) for column in part.columns],
        "rows": [_row(part, row) for row in part.table_rows],
        "oracle": _oracle(part) if part.oracle else [],
        "comparability": words.comparability(table, part),
        "legend": words.legend(part),
        "splits": [_split(part, split) for split in part.rows],
        "tasks": list(dict.fromkeys(task for of_split in part.positives.values() for task in of_split)),
        "tests": [test for column in part.columns for row in part.table_rows for test in _tests(part, row, column)],
        "seeds": _drawn(plots.seeds_plot(part, column, f"{name}-s{i}") for i, column in enumerate(part.columns)),
        "ranks": [(_safe(plots.ranks_plot(one, ours, f"{name}-r{i}")), one.words) for i, one in enumerate(made)],
        "reliability": _drawn(plots.reliability_plot(part, task, f"{name}-c{i}") for i, task in enumerate(tasks)),
        "training": _drawn(plots.training_plot(part, metric, f"{name}-t{i}") for i, metric in enumerate(curves)),
        "efficiency": _drawn(plots.efficiency_plot(part, key, f"{name}-e{i}") for i, key in enumerate(DRAWN)),
        "efficiency_head": [title for key, title in EFFICIENCY.items() if _anywhere(part, key)],
        "efficiency_rows": [
            (row, [formats.amount(row.efficiency.get(key)) for key in EFFICIENCY if _anywhere(part, key)])
            for row in part.table_rows
            if row.efficiency
        ],
        "configs": _configs(part),
        "incomplete": any(row.missing for row in part.table_rows),
    }


def _head(part: Part, column: Column) -> dict[str, Any]:
    gain, published = words.has_gain(part, column), words.has_published(part, column)
    return {"title": column.title, "gain": gain, "published": published, "span": 1 + gain + published}


def _row(part: Part, row: Row) -> dict[str, Any]:
    return {
        "row": row,
        "seeds": words.seeds_said(row),
        "short": bool(row.missing),
        "cells": [words.shown(part, row, column) for column in part.columns],
    }


def _oracle(part: Part) -> list[str]:
    return [words.oracle_shown(part, column) for column in part.columns]


def _split(part: Part, split: str) -> dict[str, Any]:
    rows, positives = part.rows[split], part.positives.get(split, {})
    return {
        "name": split,
        "rows": formats.count(rows),
        "positives": {task: f"{formats.count(k)} ({formats.share(k, rows)})" for task, k in positives.items()},
    }


def _tests(part: Part, row: Row, column: Column) -> list[dict[str, str]]:
    cell, places = row.cells.get(column.key), formats.decimals(part, column)
    if cell is None:
        return []
    found: list[tuple[str, Comparison | None]] = [("seeds", cell.seeds_test), ("test rows", cell.rows_test)]
    return [
        {
            "column": column.title,
            "row": row.label,
            "against": test.against,
            "over": over,
            "difference": formats.gain(test.difference, "absolute", places),
            "interval": formats.interval(test.interval, places),
            "p": formats.p_value(test.p),
            "adjusted": formats.p_value(test.adjusted),
            "method": "; ".join(filter(None, (test.method, test.note))),
        }
        for over, test in found
        if test is not None
    ]


def _configs(part: Part) -> list[dict[str, Any]]:
    own = own_options(part.table_rows)
    return [
        {"row": row, "own": own[row.label], "yaml": yaml.safe_dump(row.config, sort_keys=False, allow_unicode=True, width=100)}
        for row in part.table_rows
        if row.config
    ]


def _anywhere(part: Part, key: str) -> bool:
    return any(row.efficiency.get(key) is not None for row in part.table_rows)


def _drawn(found: Any) -> list[Markup]:
    return [_safe(drawing) for drawing in found if drawing]


def _safe(drawing: str) -> Markup:
    """Made by svg.py, where matplotlib escapes what it writes."""
    return Markup(drawing)
