"""table.tex (its whole text: test_write.py)."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from large_table import large_table
from tables_by_hand import small_table

from seqmtl.tables.content import Table
from seqmtl.tables.latex import escaped, latex


def tabulars(text: str) -> list[list[str]]:
    """The lines of each tabular, its head with the column types first."""
    return [
        [kinds, *body.strip().splitlines()] for kinds, body in re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, re.S)
    ]


def columns(line: str) -> int:
    spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
    return len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans)


@pytest.mark.parametrize("table", [small_table(), large_table()], ids=["small", "large"])
def test_every_line_has_a_cell_for_each_column(table: Table) -> None:
    found = tabulars(latex(table))
    assert len(found) == len(table.parts)
    for kinds, *body in found:
        lines = [line for line in body if line.endswith(r"\\")]
        assert len(lines) > 3
        assert {columns(line) for line in lines} == {len(kinds)}


@pytest.mark.parametrize("table", [small_table(), large_table()], ids=["small", "large"])
def test_braces_and_environments_are_closed_and_all_is_ascii_or_letters(table: Table) -> None:
    text = latex(table)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert sorted(re.findall(r"\\begin{(.*?)}", text)) == sorted(re.findall(r"\\end{(.*?)}", text))
    below_comment = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not [c for c in below_comment if ord(c) > 127]
    assert len(re.findall(r"(?<!\\)\$", below_comment)) % 2 == 0


def test_best_second_stars_marks_and_groups() -> None:
    text = latex(small_table())
    assert r"\textbf{0.6517 $\pm$ 0.0006}\textsuperscript{**}" in text
    assert r"\underline{0.6420 $\pm$ 0.0020}" in text
    assert r"0.5840 $\pm$ 0.0000\textsuperscript{\textdagger{}}" in text
    assert r" & \multicolumn{5}{c}{seqmtl} & \multicolumn{2}{c}{published (not comparable)} \\" in text
    assert r"$-$1.42 \%" in text
    assert "AITM (0 of 2 seeds) & $\\times$" in text


def test_wide_tables_are_shrunk() -> None:
    narrow = latex(replace(small_table(), parts=small_table().parts[1:]))
    assert r"\resizebox" not in narrow
    assert r"\begin{table}[t]" in narrow
    wide = latex(large_table())
    assert wide.count(r"\resizebox{\textwidth}{!}{%") == 1
    assert r"\begin{table*}" in wide


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b & 5 % of $1 #2 {x}", r"a\_b \& 5 \% of \$1 \#2 \{x\}"),
        ("\\~^", r"\textbackslash{}\textasciitilde{}\textasciicircum{}"),
        ("λ < 0.1 ± 2 → z", r"$\lambda$ $<$ 0.1 $\pm$ 2 $\rightarrow$ z"),
        ("two\nlines", "two lines"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_label_is_no_argument_of_the_line_before() -> None:
    table = small_table()
    part = table.parts[1]
    rows = (part.table_rows[0], replace(part.table_rows[1], label="[x]"), replace(part.table_rows[2], label="*y"))
    lines = tabulars(latex(replace(table, parts=(replace(part, table_rows=rows),))))[0]
    assert [line[:5] for line in lines if "[x]" in line or "*y" in line] == ["{}[x]", "{}*y "]
