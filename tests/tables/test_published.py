"""No published number is mistyped: each is looked up in the paper's own text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from conftest import CONF
from seqmtl.tables.spec import printed, read_table, table_names

PAPERS_TEXT = Path(os.environ.get("SEQMTL_PAPERS", CONF.parents[1] / "shared" / "papers"))
TABLES = {name: read_table(name, [CONF]) for name in table_names([CONF])}


class Place(NamedTuple):
    """Where a part stands in print: its first cell after the label, the group in front of the label, the paper's own labels."""

    first: int = 0
    group: str = ""
    grouped: bool = False
    labels: Mapping[str, str] = MappingProxyType({})


ABLATION = {"APEM w/o L_D-Task": "APEM w/o L𝐷−𝑇𝑎𝑠𝑘"}
OF_MAN = {"MAN": "OURS"}
SEQUENCES = {name: f"{name}_seq" for name in ("watch", "non_watch", "click", "non_click", "entering")}
PLACES = {
    ("aitm_table2", "industrial"): Place(),
    ("aitm_table2", "public"): Place(4),
    ("apem_table3", "public"): Place(),
    ("apem_table3", "industrial"): Place(4),
    ("apem_table4", "public"): Place(labels=ABLATION),
    ("apem_table4", "industrial"): Place(4, labels=ABLATION),
    ("apem_table5", "scene1"): Place(),
    ("apem_table5", "scene2"): Place(2),
    ("man_table1", "public"): Place(labels=OF_MAN),
    ("man_table2", "public"): Place(),
    ("dtrn_table1", "ecommerce"): Place(labels=SEQUENCES),
    ("dtrn_table4", "ecommerce"): Place(group="E-commerce ", grouped=True),
    ("dtrn_table4", "tenrec"): Place(group="Tenrec ", grouped=True),
    **{("dtrn_table" + n, "ecommerce"): Place() for n in "567"},
    ("dtrn_table8", "ecommerce"): Place(grouped=True),
}
HEADING = re.compile(r"\s*\**Table (\d+)[:.]")
VALUE = r"[+-]?\d*\.\d+(?:\s*±\s*[\d.]+)?%?\s*\**|[–-]"
SPACED = re.compile(rf"(\S.{{,30}}?)((?: (?:{VALUE}))+)")  # of a PDF's text: a label, then numbers with blanks between


def rows_in_print(paper: str, where: str, grouped: bool) -> dict[str, list[str]]:
    """{label: its cells} of a table in a paper's text, without markup."""
    text = (PAPERS_TEXT / f"{paper}.txt").read_text(encoding="utf-8")
    number = where.removeprefix("Table ")
    found: dict[str, list[str]] = {}
    group, inside = "", False
    for line in text.splitlines():
        heading = HEADING.match(line)
        inside = heading[1] == number if heading else inside
        if not inside:
            continue
        line = re.sub(r"<[^>]+>", "", line).replace(r"$\pm$", "±").replace(r"\pm", "±")
        cells = line.split("\t")
        if len(cells) == 1:
            spaced = SPACED.fullmatch(line)
            cells = [spaced[1], *spaced[2].split()] if spaced else []
        if grouped and cells:
            group, cells = cells[0] or group, [f"{cells[0] or group} {cells[1]}", *cells[2:]]
        cells = [cell.strip() for cell in cells]
        if len(cells) < 3 or cells[0] == "Gain" or not all(re.fullmatch(f"{VALUE}|", cell) for cell in cells[1:]):
            continue
        label = re.sub(r" \[\d+\]$", "", cells[0])
        assert label not in found, f"{label} stands twice"
        found[label] = cells[1:]
    return found


@pytest.mark.data
@pytest.mark.skipif(not PAPERS_TEXT.is_dir(), reason="no text of the papers: set SEQMTL_PAPERS")
@pytest.mark.parametrize(("name", "part"), PLACES)
def test_published_values_are_those_of_the_papers_text(name: str, part: str) -> None:
    table, place = TABLES[name], PLACES[name, part]
    (spec,) = (p for p in table.parts if p.name == part)
    found = rows_in_print(table.paper, table.where, place.grouped)
    of_part = {label for label in found if label.startswith(place.group)}
    wanted = {row.label: place.group + place.labels.get(row.label, row.label) for row in spec.rows if row.label in spec.published}
    assert set(wanted.values()) == of_part, "all rows of the paper and no other"
    for label, values in spec.published.items():
        cells = found[wanted[label]][place.first : place.first + len(values)]
        assert [printed(cell) for cell in cells] == list(values), label


def test_every_part_with_published_values_is_looked_up() -> None:
    assert set(PLACES) == {(name, part.name) for name, table in TABLES.items() for part in table.parts if part.published}
    unpublished = {
        (name, row.label)
        for name, t in TABLES.items()
        for p in t.parts
        if p.published
        for row in p.rows
        if row.label not in p.published
    }
    assert unpublished == {("man_table2", "MAN, α = 0")}
