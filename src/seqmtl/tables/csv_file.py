"""table.csv: long form, a line per part, row and column, unrounded, for a spreadsheet or `pandas.read_csv`.

`values` is JSON by seed, `seeds` those with a value; the oracle's lines have `kind` oracle. Nothing stands where nothing is known.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from seqmtl.tables import formats, words
from seqmtl.tables.content import Cell, Column, Comparison, Part, Row, Table

TEST = ("against", "difference", "low", "high", "p", "adjusted", "method", "note")
FIELDS = (
    *("table", "part", "dataset", "data_version", "kind", "row", "ours", "model", "loss", "config_hash"),
    *("column", "task", "metric", "seeds_asked", "seeds", "n", "mean", "std", "gain", "gain_kind", "gain_over", "place"),
    *("published", "published_std", "published_stars", "comparable"),
    *(f"seeds_test_{name}" for name in TEST),
    *(f"rows_test_{name}" for name in TEST),
    *("values", "missing"),
)


def csv_text(table: Table) -> str:
    """The lines under a line of names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for part in table.parts:
        of_part = {"table": table.name, "part": part.name, "dataset": part.dataset, "data_version": part.data_version}
        for row in part.table_rows:
            for column in part.columns:
                writer.writerow(of_part | _of_column(column) | _of_row(row) | _of_cell(part, row.cells.get(column.key)))
        for column in part.columns if part.oracle else ():
            oracle = {"kind": "oracle", "row": "oracle", "mean": _number(part.oracle.get(column.key))}
            writer.writerow(of_part | _of_column(column) | oracle)
    return out.getvalue()


def _of_column(column: Column) -> dict[str, str]:
    return {"column": column.key, "task": column.task, "metric": column.metric}


def _of_row(row: Row) -> dict[str, Any]:
    return {
        "kind": "row",
        "row": row.label,
        "ours": str(row.ours).lower(),
        "model": row.model,
        "loss": row.loss,
        "config_hash": row.config_hash,
        "seeds_asked": " ".join(str(run.seed) for run in row.runs),
        "missing": words.seeds_said(row, most=500) if row.missing else "",
    }


def _of_cell(part: Part, cell: Cell | None) -> dict[str, Any]:
    if cell is None:
        return {}
    printed = cell.published
    shown: dict[str, Any] = {
        "seeds": " ".join(str(seed) for seed, value in cell.values.items() if value is not None),
        "n": formats.finished(cell),
        "mean": _number(cell.mean),
        "std": _number(cell.std),
        "gain": _number(cell.gain),
        "place": "" if cell.place is None else cell.place,
        "values": json.dumps(cell.values),
    }
    if cell.gain is not None:
        shown |= {"gain_kind": part.gain_kind, "gain_over": part.gain_over}
    if printed is not None:
        shown |= {"published": _number(printed.value), "published_std": _number(printed.std), "published_stars": printed.stars}
        shown["comparable"] = str(part.comparable).lower()
    return shown | _of_test("seeds_test", cell.seeds_test) | _of_test("rows_test", cell.rows_test)


def _of_test(name: str, test: Comparison | None) -> dict[str, str]:
    if test is None:
        return {}
    low, high = test.interval or (None, None)
    numbers = (_number(value) for value in (test.difference, low, high, test.p, test.adjusted))
    return {f"{name}_{part}": text for part, text in zip(TEST, (test.against, *numbers, test.method, test.note), strict=True)}


def _number(value: float | None) -> str:
    """All digits, so that reading gives the same number."""
    return "" if value is None else repr(float(value))
