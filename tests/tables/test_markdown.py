"""table.md (its whole text: test_write.py)."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from large_table import large_table
from tables_by_hand import cell, small_table

from seqmtl.tables.content import Column, Row
from seqmtl.tables.markdown import escaped, markdown


def table_lines(text: str) -> list[list[str]]:
    """The cells of all lines of tables."""
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_every_line_has_as_many_cells_as_the_head() -> None:
    lines = table_lines(markdown(large_table()))
    assert len(lines) == 2 + 21
    assert {len(line) for line in lines} == {2 + 8 * 2}


def test_best_second_stars_and_marks() -> None:
    rows = {line[0]: line for line in table_lines(markdown(small_table()))[:7]}
    assert rows["AITM"][5] == r"**0.6517 ± 0.0006** \*\*"
    assert rows["MMoE"][5] == "<u>0.6420 ± 0.0020</u>"
    assert rows["LightGBM"][2] == "0.5840 ± 0.0000 †"
    assert rows["AITM"][7] == r"0.6525 ± 0.0024 \*\*"
    assert rows[r"w/o_AIT \[R\]"][1].startswith("2 of 3 seeds; seed 3 failed: the loss is NaN at step 12")
    assert rows["oracle"][2] == "0.6320"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<x> & y", r"\<x\> & y"),
        ("*a* _b_ c_d `e`", r"\*a\* \_b\_ c_d \`e\`"),
        ("# a\n\n- b", r"\# a - b"),
        ("[x](y)", r"\[x\](y)"),
        ("a\\", "a\\\\"),
    ],
)
def test_nothing_in_a_label_is_markup(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_table_of_data_has_neither_seeds_nor_gains_nor_marks() -> None:
    table = small_table()
    column = Column("watch.occurrences", "watch", "occurrences", "occurrences", 0)
    row = Row("clicks", cells={column.key: cell({0: 12.3456})})
    part = replace(table.parts[0], columns=(column,), table_rows=(row,), gain_over="", oracle={}, remarks=())
    text = markdown(replace(table, paper="", where="", parts=(part,)))
    assert table_lines(text) == [["row", "occurrences"], ["------", "----------:"], ["clicks", "12.35"]]
    assert "Gain" not in text
    assert "Published" not in text
    assert "No stars" not in text
    assert "Bold" not in text
