"""The five files of a table: compared with tests/tables/golden/ to the last character.

After a change that is meant, `python tests/tables/remake_golden.py` writes them anew; look at what `git diff` says then.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from large_table import large_table
from remake_golden import GOLDEN, comparable
from tables_by_hand import small_table

from seqmtl.errors import SeqmtlError
from seqmtl.tables import html as html_module
from seqmtl.tables.content import Table, table_from_json
from seqmtl.tables.write import FILES, json_text, write


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table") / "aitm_table2"
    assert [path.name for path in write(small_table(), folder)] == list(FILES)
    return folder


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is about files, not about what is in them."""
    monkeypatch.setattr(html_module, "html", lambda table: f"<p>{table.title}")


def changed(table: Table, **row: Any) -> Table:
    """The table, but its first row says something else."""
    part = table.parts[0]
    rows = (replace(part.table_rows[0], **row), *part.table_rows[1:])
    return replace(table, parts=(replace(part, table_rows=rows), *table.parts[1:]))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_golden(written: Path, name: str) -> None:
    assert comparable((written / name).read_text(encoding="utf-8")) == (GOLDEN / name).read_text(encoding="utf-8")


def test_nothing_else_is_left(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == {*FILES, ".lock"}


@pytest.mark.parametrize("table", [small_table(), large_table(tasks=("click",))], ids=["small", "large"])
def test_json_goes_there_and_back(table: Table) -> None:
    assert table_from_json(json.loads(json_text(table))) == table


def test_json_has_no_nan() -> None:
    table = changed(small_table(), training={"train/loss": {1: [[1, float("nan")], [2, float("inf")], [3, 0.5]]}})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads(json_text(table), parse_constant=refuse)
    assert read["parts"][0]["table_rows"][0]["training"]["train/loss"]["1"] == [[1, None], [2, None], [3, 0.5]]


@pytest.mark.usefixtures("no_drawings")
def test_the_same_table_again_replaces(tmp_path: Path) -> None:
    table = small_table()
    write(table, tmp_path)
    before = contents(tmp_path)
    later = replace(changed(table, efficiency={"epoch_seconds": 9.5}), made="2026-01-01T00:00:00+00:00", seeds=(1, 2, 3, 4, 5))
    write(later, tmp_path)
    assert not list(tmp_path.glob("earlier-*"))
    assert contents(tmp_path)["table.json"] == json_text(later) != before["table.json"]


@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize("what", ["config", "dataset", "data", "rows", "name"])
def test_another_table_moves_the_earlier_one(tmp_path: Path, what: str) -> None:
    table = small_table()
    part, rest = table.parts[0], table.parts[1:]
    other = {
        "config": changed(table, config_hash="99999999"),
        "dataset": replace(table, parts=(replace(part, dataset="aliccp"), *rest)),
        "data": replace(table, parts=(replace(part, data_version="00000000"), *rest)),
        "rows": replace(table, parts=(replace(part, table_rows=part.table_rows[1:]), *rest)),
        "name": replace(table, name="apem_table3"),
    }[what]
    write(table, tmp_path)
    first = contents(tmp_path)
    write(other, tmp_path)
    second = contents(tmp_path)
    assert contents(tmp_path / "earlier-1") == first
    assert second["table.json"] == json_text(other)
    write(table, tmp_path)
    assert contents(tmp_path / "earlier-1") == first
    assert contents(tmp_path / "earlier-2") == second
    assert contents(tmp_path) == first


@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize("content", [None, "{", "[]", '{"name": "aitm_table2"}'])
def test_files_beside_a_lost_or_damaged_json_are_kept(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "table.md").write_text("by hand")
    if content is not None:
        (tmp_path / "table.json").write_text(content)
    write(small_table(), tmp_path)
    assert (tmp_path / "earlier-1" / "table.md").read_text() == "by hand"
    assert set(contents(tmp_path)) == set(FILES)
    write(small_table(), tmp_path)
    assert not (tmp_path / "earlier-2").exists()


@pytest.mark.usefixtures("no_drawings")
def test_a_move_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    table, other = small_table(), changed(small_table(), config_hash="99999999")
    write(table, tmp_path)
    first = contents(tmp_path)
    (tmp_path / "earlier-1").mkdir()
    for name in FILES[:2]:
        (tmp_path / name).rename(tmp_path / "earlier-1" / name)
    write(other, tmp_path)
    assert contents(tmp_path / "earlier-1") == first
    assert not (tmp_path / "earlier-2").exists()


@pytest.mark.usefixtures("no_drawings")
def test_a_disk_that_refuses_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SeqmtlError, match="could not write"):
        write(small_table(), tmp_path / "file" / "tables")
