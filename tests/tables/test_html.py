"""report.html is valid, loads nothing, and says what the table says (its whole text but for the drawings: test_write.py)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import html5lib
import pytest
from large_table import large_table
from tables_by_hand import cell, small_table

from seqmtl.tables.content import Column, Row, Table
from seqmtl.tables.html import html

EVIL = "<script>alert(1)</script>\"'&"


def parsed(text: str) -> ET.Element:
    """Fails at the first error of HTML5."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


@pytest.fixture(scope="module")
def text() -> str:
    return html(small_table())


@pytest.fixture(scope="module")
def page(text: str) -> ET.Element:
    return parsed(text)


def words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def without_curves(table: Table) -> Table:
    """Fewer drawings, for tests of something else."""
    parts = []
    for part in table.parts:
        rows = (replace(row, reliability={}, training={}, efficiency={}) for row in part.table_rows[:2])
        parts.append(replace(part, table_rows=tuple(rows), columns=part.columns[:1]))
    return replace(table, parts=tuple(parts))


def test_nothing_is_loaded_from_anywhere(text: str, page: ET.Element) -> None:
    assert "http" not in text
    assert "//" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)
    assert "@import" not in text
    tags = {element.tag for element in page.iter() if isinstance(element.tag, str)}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for element in page.iter():
        for name, value in element.attrib.items():
            if str(name).endswith(("src", "href", "srcset", "action")):
                assert value.startswith("#"), (element.tag, name, value)
            assert not str(name).startswith("on"), (element.tag, name)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_references_met(page: ET.Element) -> None:
    ids = [element.attrib["id"] for element in page.iter() if "id" in element.attrib]
    assert len(ids) > 20
    assert len(ids) == len(set(ids))
    for element in page.iter():
        for name, value in element.attrib.items():
            if str(name).endswith("href"):
                assert value.removeprefix("#") in ids


def test_every_line_of_every_table_is_as_wide_as_the_head(page: ET.Element) -> None:
    tables = list(page.iter("table"))
    assert len(tables) > 6
    for table in tables:
        head, *_ = table.iter("tr")
        width = sum(int(c.attrib.get("colspan", 1)) for c in head)
        for line in table.findall("tbody/tr"):
            assert sum(int(c.attrib.get("colspan", 1)) for c in line) == width


def test_the_table_itself(page: ET.Element) -> None:
    table = next(page.iter("table"))
    rows = {words(line[0]): line for line in table.findall("tbody/tr")}
    assert list(rows) == ["LightGBM", "MMoE", "w/o_AIT [R]", "AITM", "oracle"]
    aitm = rows["AITM"]
    assert aitm.attrib["class"] == "own"
    assert words(aitm[5]) == "0.6517 ± 0.0006**"
    assert "place1" in aitm[5].attrib["class"]
    assert "place2" in rows["MMoE"][5].attrib["class"]
    assert words(aitm[7]) == "0.6525 ± 0.0024**"
    assert words(rows["LightGBM"][2]) == "0.5840 ± 0.0000 †"
    assert words(rows["w/o_AIT [R]"][1]) == "2 of 3 seeds; seed 3 failed: the loss is NaN at step 12 <&|_%>"
    assert words(rows["w/o_AIT [R]"][5]) == "–"
    assert words(rows["w/o_AIT [R]"][8]) == "undefined"
    assert words(rows["oracle"][2]) == "0.6320"


def test_sections_of_the_parts(page: ET.Element) -> None:
    public, real = page.iter("section")
    titles = ["Data", "Seeds", "Ranks", "Calibration", "Efficiency", "Training", "Runs", "Configs"]
    assert [words(title) for title in public.iter("h3")] == titles
    assert [words(title) for title in real.iter("h3")] == ["Data", "Seeds", "Ranks", "Runs"]
    assert "No ranks: they take at least 3 rows that share at least 2 finished seeds." in words(real)
    assert len([svg for svg in public.iter() if str(svg.tag).endswith("svg")]) == 3 + 2 + 2 + 3 + 2
    assert "3 of 18 runs have no result." in words(page)
    assert "seqmtl table aitm_table2 dataset=aliccp_sim seeds=1,2,3" in words(page)
    assert "380 (" not in words(public)
    assert "3,112 (3.89 %)" in words(public)


def test_configs_show_what_differs_first(page: ET.Element) -> None:
    shown = [details for details in page.iter("details") if words(details[0]).startswith("w/o_AIT [R] aitm-bce-33333333")]
    (details,) = shown
    rows = [[words(c) for c in line] for line in details.findall(".//tbody/tr")]
    assert ["model.trunk.transfer", "false", "(absent)"] in rows
    assert ["batch_size", "2000", "2000"] not in rows
    assert "model.trunk.transfer=false" in words(details)
    assert "batch_size: 2000" in words(details)  # in the whole config


def test_whatever_stands_in_a_table_is_text() -> None:
    table = without_curves(small_table())
    part = table.parts[0]
    run = replace(part.table_rows[0].runs[0], state="failed", why=EVIL, path=EVIL)
    row = replace(part.table_rows[0], label=EVIL, config={"model": EVIL}, overrides=(EVIL,), runs=(run,))
    column = replace(part.columns[0], title=EVIL)
    part = replace(part, name=EVIL, dataset=EVIL, table_rows=(row,), columns=(column,), remarks=(EVIL,), clusters=EVIL)
    evil = replace(table, title=EVIL, about=EVIL, paper=EVIL, command=EVIL, machine=EVIL, parts=(part,))
    text = html(evil)
    page = parsed(text)
    assert "<script" not in text
    assert not list(page.iter("script"))
    assert words(page).count("<script>alert(1)</script>") > 10


def test_a_table_of_data_has_no_sections_of_runs() -> None:
    table = small_table()
    column = Column("watch.occurrences", "watch", "occurrences", "occurrences", 0)
    part = replace(
        table.parts[0],
        columns=(column,),
        table_rows=(Row("clicks", cells={column.key: cell({0: 12.3456})}),),
        oracle={},
        gain_over="",
    )
    page = parsed(html(replace(table, parts=(part,))))
    assert [words(title) for title in page.iter("h3")] == ["Data", "Seeds"]
    assert [words(c) for c in next(page.iter("table")).findall("tbody/tr/*")] == ["clicks", "12.35"]
    assert "no result" not in words(page)


@pytest.mark.slow
def test_a_large_report_is_valid_and_not_huge() -> None:
    text = html(large_table())
    page = parsed(text)
    assert len([svg for svg in page.iter() if str(svg.tag).endswith("svg")]) == 8 + 2 + 4 + 3 + 5
    assert len(text) < 1_500_000
