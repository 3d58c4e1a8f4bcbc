"""What a table says in words: what is missing and why, legends, what can be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tables_by_hand import CLICK, cell, over_rows, over_seeds, runs, small_table

from seqmtl.tables import words
from seqmtl.tables.content import Comparison, Part, Row

TABLE = small_table()
PUBLIC, REAL = TABLE.parts


def part_of(*cells: Any, **more: Any) -> Part:
    """Rows A, B, … with one column."""
    rows = [
        Row(chr(65 + i), cells={"click.auc": one}, runs=runs("A", dict.fromkeys(one.values, ("finished", ""))))
        for i, one in enumerate(cells)
    ]
    return replace(REAL, columns=(CLICK,), table_rows=tuple(rows), gain_over="", **more)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({1: ("finished", ""), 2: ("finished", "")}, "2"),
        ({1: ("finished", ""), 3: ("failed", "the disk is full")}, "1 of 2 seeds; seed 3 failed: the disk is full"),
        ({1: ("failed", "no"), 2: ("failed", "no"), 3: ("new", "")}, "no seed finished; seeds 1 and 2 failed: no; seed 3 not run"),
        ({1: ("interrupted", ""), 2: ("running", "")}, "no seed finished; seed 1 cut off; seed 2 still running"),
        ({}, ""),
    ],
)
def test_missing_seeds_are_said(states: dict[int, tuple[str, str]], said: str) -> None:
    assert words.seeds_said(Row("A", runs=runs("A", states))) == said


def test_long_reasons_are_cut() -> None:
    said = words.seeds_said(Row("A", runs=runs("A", {1: ("failed", "x" * 500)})), most=20)
    assert said == f"no seed finished; seed 1 failed: {'x' * 19}…"


def test_legend_of_the_small_table() -> None:
    text = "\n".join(words.legend(PUBLIC))
    assert "*: p < 0.05, **: p < 0.01, the row is better than MMoE; paired t-test over 3 seeds." in text
    assert "†: below the best of the column, p < 0.05 after Holm's correction" in text
    assert "DeLong clustered by user (Obuchowski), 4,321 users." in text
    assert "Gain: over LightGBM, as a difference of means." in text
    assert "undefined:" in text
    assert "–: the row has no such column." in text
    assert "oracle:" in text
    assert "No stars" not in text
    assert "×" not in text


def test_fewer_than_three_seeds_have_no_stars_and_it_says_why() -> None:
    text = "\n".join(words.legend(REAL))
    assert "No stars: fewer than three seeds finished" in text
    assert "p < 0.05" not in text
    assert words.shown(REAL, REAL.table_rows[1], CLICK).stars == ""
    without = part_of(cell({1: 0.5, 2: 0.6}), cell({1: 0.6, 2: 0.7}))
    assert any(line.startswith("No stars: fewer than three") for line in words.legend(without))


def test_a_row_without_stars_is_named_with_its_reason() -> None:
    three: dict[int, float | None] = {1: 0.5, 2: 0.6, 3: 0.7}
    constant = over_seeds("A", 0.1, None, "the difference is the same in all seeds")
    text = "\n".join(
        words.legend(part_of(cell(three), cell(three, seeds_test=over_seeds("A", 0.01, 0.3)), cell(three, seeds_test=constant)))
    )
    assert "No stars for C: the difference is the same in all seeds." in text
    assert "the row is better than A; paired t-test over 3 seeds. No row has any." in text


def test_rows_that_cannot_be_tested_say_why() -> None:
    note = Comparison("A", -0.1, None, None, None, "DeLong", "one class only")
    said = words.legend(part_of(cell({1: 0.5}, place=1), cell({1: 0.4}, rows_test=note)))
    assert "No †: one class only." in said


def test_a_row_with_a_comparison_of_its_own_is_not_called_below_the_best() -> None:
    test = over_rows("B", -0.1, 0.001, 0.002)
    said = words.legend(part_of(cell({1: 0.9}, place=1), cell({1: 0.5}, place=2), cell({1: 0.4}, rows_test=test)))
    assert any(line.startswith("†: below B, p < 0.05") for line in said)


def test_published_values_are_compared_or_not() -> None:
    assert "cannot be compared" in words.comparability(TABLE, PUBLIC)
    assert "KDD 2021, Table 2" in words.comparability(TABLE, PUBLIC)
    assert "so they can be compared with ours" in words.comparability(TABLE, REAL)
    assert words.comparability(TABLE, part_of(cell({1: 0.5}))) == ""


def test_data_said() -> None:
    assert words.data_said(PUBLIC) == (
        "aliccp_sim (simulated data, checksum 9f86d081); rows: train 80,000, valid 10,000, test 10,000;"
        " positives in test: click 389 (3.89 %), purchase 2 (0.0200 %)"
    )


def test_shown_cells() -> None:
    lightgbm, _mmoe, without, aitm = PUBLIC.table_rows
    shown = words.shown(PUBLIC, aitm, PUBLIC.columns[1])
    assert (shown.text, shown.stars, shown.mark, shown.place, shown.gain) == ("0.6517 ± 0.0006", "**", "", 1, "+0.0617")
    assert (shown.published, shown.published_stars) == ("0.6525 ± 0.0024", "**")
    assert words.shown(PUBLIC, lightgbm, CLICK).mark == "†"
    assert words.shown(PUBLIC, lightgbm, CLICK).gain == "–"
    assert words.shown(PUBLIC, without, PUBLIC.columns[1]).text == "–"
    assert words.shown(REAL, REAL.table_rows[2], CLICK).text == "×"  # asked for, nothing finished
    assert words.shown(REAL, REAL.table_rows[3], CLICK).text == "–"  # in the paper alone
    assert words.oracle_shown(PUBLIC, PUBLIC.columns[1]) == "undefined"
