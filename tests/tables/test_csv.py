"""table.csv: read back, it says what the table says."""

from __future__ import annotations

import csv
import io
import json

from large_table import large_table
from tables_by_hand import small_table

from seqmtl.tables.csv_file import csv_text

TABLE = small_table()
LINES = list(csv.DictReader(io.StringIO(csv_text(TABLE))))


def line(part: str, row: str, column: str) -> dict[str, str]:
    (found,) = [one for one in LINES if (one["part"], one["row"], one["column"]) == (part, row, column)]
    return found


def test_a_line_per_part_row_and_column_and_the_oracle() -> None:
    expected = sum((len(part.table_rows) + bool(part.oracle)) * len(part.columns) for part in TABLE.parts)
    assert len(LINES) == expected == 4 * 3 + 3 + 4
    assert all(None not in one and None not in one.values() for one in LINES)
    assert [one["kind"] for one in LINES].count("oracle") == 3
    assert float(line("public", "oracle", "click.auc")["mean"]) == 0.632
    assert line("public", "oracle", "purchase.auc")["mean"] == ""


def test_numbers_are_exact() -> None:
    table = large_table()
    (part,) = table.parts
    cells = {(row.label, column.key): row.cells[column.key] for row in part.table_rows for column in part.columns}
    for one in csv.DictReader(io.StringIO(csv_text(table))):
        cell = cells[one["row"], one["column"]]
        assert float(one["mean"]) == cell.mean
        assert float(one["std"]) == cell.std
        assert {int(seed): value for seed, value in json.loads(one["values"]).items()} == cell.values
        assert one["gain"] == "" if cell.gain is None else float(one["gain"]) == cell.gain
        assert cell.rows_test is not None
        assert cell.rows_test.interval == (float(one["rows_test_low"]), float(one["rows_test_high"]))
        assert (float(one["rows_test_p"]), float(one["rows_test_adjusted"])) == (cell.rows_test.p, cell.rows_test.adjusted)


def test_what_is_known_of_a_cell() -> None:
    one = line("public", "AITM", "purchase.auc")
    assert (one["n"], one["place"], one["ours"], one["gain_kind"], one["gain_over"]) == ("3", "1", "true", "absolute", "LightGBM")
    assert (one["published"], one["published_std"], one["published_stars"], one["comparable"]) == (
        "0.6525",
        "0.0024",
        "**",
        "false",
    )
    assert (one["seeds_test_against"], one["seeds_test_p"], one["seeds_test_adjusted"]) == ("MMoE", "0.004", "")
    assert line("real", "MMoE", "click.auc")["comparable"] == "true"


def test_missing_seeds_undefined_values_and_missing_columns() -> None:
    failed = line("public", "w/o_AIT [R]", "purchase.logloss")
    assert (failed["seeds_asked"], failed["seeds"], failed["n"], failed["mean"]) == ("1 2 3", "2", "1", "")
    assert json.loads(failed["values"]) == {"1": None, "2": 0.0018}
    assert failed["missing"] == "2 of 3 seeds; seed 3 failed: the loss is NaN at step 12 <&|_%>"
    absent = line("public", "w/o_AIT [R]", "purchase.auc")
    assert (absent["n"], absent["values"], absent["published"], absent["comparable"]) == ("", "", "", "")
    assert line("real", "AITM", "click.auc")["n"] == "0"
