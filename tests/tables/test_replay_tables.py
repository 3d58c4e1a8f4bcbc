"""The tables that a replay stands for: their pairs, their runs, and the gains that the papers print."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from conftest import CONF
from seqmtl.tables.replay import ORACLE, pairs, published
from seqmtl.tables.spec import read_table

TABLES = ("aitm_table3", "apem_figure9", "dtrn_table9")
PAPERS = Path(os.environ.get("SEQMTL_PAPERS", Path(__file__).parents[3] / "shared" / "papers"))


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_can_be_replayed(name: str, compose: Any) -> None:
    table = read_table(name, [CONF])
    for part in table.parts:
        assert part.measure == "replay"
        tasks = compose(f"dataset={part.datasets[0]}")["dataset"]["tasks"]
        assert {column.task for column in part.columns} <= set(tasks)
        found = pairs(part.options, [row.label for row in part.rows])
        printed = published(part.options, part.columns)
        assert printed.keys() == {pair for pair in found if ORACLE not in pair}
        assert all(values for values in printed.values())
        assert {row.label for row in part.rows} == {label for pair in found.values() for label in pair} - {ORACLE}
    assert read_table("aitm_table3", [CONF]).parts[0].options["share"] == 0.1
    aitm = read_table("aitm_table3", [CONF]).parts[0]
    assert published(aitm.options, aitm.columns)["AITM vs MLP"] == {"approval.gain": 0.25, "activation.gain": pytest.approx(0.4211)}


@pytest.mark.parametrize(
    ("name", "part", "table", "of"),
    [
        ("aitm_table3", "replay", "aitm_table2", "industrial"),
        ("apem_figure9", "scene_a", "apem_table5", "scene1"),
        ("apem_figure9", "scene_b", "apem_table5", "scene2"),
        ("dtrn_table9", "replay", "dtrn_table4", "ecommerce"),
    ],
)
def test_the_runs_are_those_of_another_table(name: str, part: str, table: str, of: str) -> None:
    def words(table: str, part: str) -> dict[frozenset[str], bool]:
        chosen = next(p for p in read_table(table, [CONF]).parts if p.name == part)
        return {frozenset((*chosen.on(chosen.datasets[0]), *row.overrides)): row.ours for row in chosen.rows}

    assert words(name, part).items() <= words(table, of).items()


@pytest.mark.data
@pytest.mark.skipif(not PAPERS.is_dir(), reason="no text of the papers: set SEQMTL_PAPERS")
@pytest.mark.parametrize("name", TABLES)
def test_the_published_gains_are_those_of_the_paper(name: str) -> None:
    table = read_table(name, [CONF])
    text = (PAPERS / f"{table.paper}.txt").read_text(encoding="utf-8")
    printed = [
        text.strip("+") for part in table.parts for gains in part.options["published"].values() for text in gains if text != "-"
    ]
    assert printed
    if name == "aitm_table3":
        place = re.search(r"^Table 3: .*?AITM vs MLP[^\n]*", text, re.DOTALL | re.MULTILINE)
    elif name == "dtrn_table9":
        place = re.search(r"\*\*Table 9: .*?Revenue[^\n]*", text, re.DOTALL)
    else:
        place = re.search(r"average increase of.*?on the CVR task", text, re.DOTALL)
    assert place is not None
    assert re.findall(r"\d+\.\d+(?= ?%)", place[0])[: len(printed)] == [value.strip("%") for value in printed]
