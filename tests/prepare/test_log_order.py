"""The files of a log and their headers: what cannot be in the order of time, or could be read in two ways, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.log import prepare

OPTIONS: dict[str, Any] = {"fields": ["item"], "parents": {"click": None}, "min_count": 1}


def written(directory: Path, header: str = "item,click", names: tuple[str, ...] = ("log-0.csv",)) -> Path:
    directory.mkdir()
    for name in names:
        rows = "\n".join(f"{i % 7},{i % 2}" + ",0" * (header.count(",") - 1) for i in range(40))
        (directory / name).write_text(f"{header}\n{rows}\n")
    return directory


def test_numbers_without_leading_zeros_are_refused(tmp_path: Path) -> None:
    raw = written(tmp_path / "raw", names=("log-9.csv", "log-10.csv"))
    with pytest.raises(SeqmtlError, match=r"log-10\.csv would be read before log-9\.csv, whose number is smaller"):
        prepare(raw, tmp_path / "out", **OPTIONS)
    prepare(written(tmp_path / "raw2", names=("log-09.csv", "log-10.csv")), tmp_path / "out2", **OPTIONS)


def test_a_quoted_header_is_a_header(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare(written(tmp_path / "raw", header='"item","click"'), tmp_path / "out", **OPTIONS)
    assert read_meta(tmp_path / "out").fields == {"item": 8}


def test_a_damaged_header_is_told_in_words(tmp_path: Path) -> None:
    raw = written(tmp_path / "raw", header="it\rem,click")
    with pytest.raises(SeqmtlError, match=r"log-0\.csv, line 1: the header cannot be read"):
        prepare(raw, tmp_path / "out", **OPTIONS)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    raw = written(tmp_path / "raw", header="item,click,click")
    with pytest.raises(SeqmtlError, match=r"log-0\.csv, line 1: column click stands there twice"):
        prepare(raw, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fields": None}, "fields must be a list of columns, not None"),
        ({"fields": "item"}, "fields must be a list of columns, not 'item'"),
        ({"parents": ["click"]}, r"parents must be a mapping such as \{click: null, order: click\}"),
        ({"histories": ["click"]}, "histories must be a mapping"),
        ({"histories": {"a/b": "click=1"}}, r"histories\.a/b: a history is a file of that name"),
    ],
)
def test_options_of_another_shape_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        prepare(written(tmp_path / "raw"), tmp_path / "out", **(OPTIONS | options))
