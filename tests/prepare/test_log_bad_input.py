"""What the converter of any log says to damaged files, wrong options, a full disk and an interruption."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from log_reference import FIELDS, HISTORIES, OPTIONS, PARENTS, converted, log, write

from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import log_passes
from seqmtl.prepare.atomic import replacing
from seqmtl.prepare.log import prepare

MUTATIONS = 25


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_bad_labels_are_named_or_skipped(tmp_path: Path, kind: str) -> None:
    rows = log(60)
    rows[45]["click"] = 2
    rows[50]["watch"] = None
    raw = write(tmp_path / "raw", rows, kind)
    where = (
        r"log-00001.parquet, row 20 \(counted from 0\): column watch is empty"
        if kind == "parquet"
        else r"log-00001.csv, line 22: column watch is empty"
    )
    with pytest.raises(SeqmtlError, match=where + r", it must be 0 or 1.*on_bad_line=skip"):
        prepare(raw, tmp_path / "out", **OPTIONS)
    prepare(raw, tmp_path / "skip", **OPTIONS, on_bad_line="skip")
    assert read_meta(tmp_path / "skip").dropped == {"label": 2}
    assert set(range(60)) - set(converted(tmp_path / "skip")) == {45, 50}


def test_bad_lines_of_csv(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", log(40), "csv", 1)
    path = raw / "log-00000.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line, words in (
        (3, b"1,2,3\n", "line 3: 3 comma-separated fields instead of 9"),
        (4, b'1,2,3,"a,9,1,1,1,1\n', "line 4: 4 comma-separated fields instead of 9|line 4: its quotes do not match"),
        (5, b'1,2,3,a"b,9,1,1,1,1\n', "line 5: its quotes do not match"),
        (6, b"1,2,3,\xff,9,1,1,1,1\n", r"line 6: byte 7 \(0xff\) is not UTF-8"),
        (7, b"\n", "line 7: 1 comma-separated fields|line 7: 0 comma-separated"),
        (8, b"1,2,3,Oslo,9,yes,0,0,0\n", "line 8: column watch is 'yes', it must be 0 or 1"),
        (len(lines), lines[-1][:7], "the file ends in the middle of this line"),
    ):
        path.write_bytes(b"".join([*lines[: number - 1], line, *lines[number:]]))
        with pytest.raises(SeqmtlError, match=words):
            prepare(raw, tmp_path / "out", **OPTIONS)
        prepare(raw, tmp_path / f"skip-{number}", **OPTIONS, on_bad_line="skip")
        assert set(range(40)) - set(converted(tmp_path / f"skip-{number}")) == {number - 2}
    path.write_bytes(b"".join(lines).replace(b"\n", b"\r\n"))
    prepare(raw, tmp_path / "windows", **OPTIONS)
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    prepare(raw, tmp_path / "marked", **OPTIONS)
    assert read_meta(tmp_path / "windows").checksum == read_meta(tmp_path / "marked").checksum


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError, match=r"there is no log in .*: log-\*\.parquet or log-\*\.csv"):
        prepare(tmp_path / "none", tmp_path / "out", **OPTIONS)
    raw = write(tmp_path / "raw", log(40))
    with pytest.raises(SeqmtlError, match=r"log-00000\.parquet has no column shop; it has time, user"):
        prepare(raw, tmp_path / "out", **OPTIONS | {"fields": [*FIELDS, "shop"]})
    path = raw / "log-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(SeqmtlError, match=r"log-00001\.parquet is no whole Parquet file"):
        prepare(raw, tmp_path / "out", **OPTIONS)
    pl.read_parquet(raw / "log-00000.parquet").with_columns(pl.col("hour") + 0.5).write_parquet(path)
    with pytest.raises(
        SeqmtlError, match=r"log-00001\.parquet: column hour holds double; a field must hold whole numbers or strings"
    ):
        prepare(raw, tmp_path / "out", **OPTIONS)
    pl.read_parquet(raw / "log-00000.parquet").with_columns(pl.col("click").cast(pl.Float32)).write_parquet(path)
    with pytest.raises(SeqmtlError, match=r"column click holds float; a label must be 0 or 1, as whole numbers"):
        prepare(raw, tmp_path / "out", **OPTIONS)
    pl.read_parquet(raw / "log-00000.parquet").with_columns(pl.col("hour").cast(pl.String)).write_parquet(path)
    with pytest.raises(
        SeqmtlError, match=r"log-00001\.parquet: column hour holds strings, but whole numbers in the files before it"
    ):
        prepare(raw, tmp_path / "out", **OPTIONS)
    write(raw, log(40), "csv")
    with pytest.raises(SeqmtlError, match=r"holds log-\*\.parquet and log-\*\.csv"):
        prepare(raw, tmp_path / "out", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fields": []}, "must name the columns"),
        ({"fields": [*FIELDS, "play_time_ms"]}, "play_time_ms happens after the impression or is a label"),
        ({"fields": [*FIELDS, "click"]}, "click happens after the impression or is a label"),
        ({"fields": [*FIELDS, "hour"]}, "these stand twice: hour"),
        ({"parents": {"click": "watch", "watch": None}, "histories": {}}, "the parent 'watch' of task 'click'"),
        ({"histories": {"watch": "watch"}}, r"dataset\.prepare\.histories\.watch must be <task>=1 or <task>=0, not 'watch'"),
        ({"histories": {"watch": "hour=1"}}, "the tasks are watch, click, entering, conversion"),
        ({"user": None}, "needs dataset.prepare.user and dataset.prepare.item"),
        ({"item": "shop"}, "is made of 'shop', which is none of the fields"),
        ({"user": None, "histories": {}, "split": "user_tail"}, "split=user_tail needs dataset.prepare.user"),
        ({"split": "by_day"}, "must be time, user_tail, random or user_holdout, not 'by_day'"),
        ({"negative": {"window": -1}}, "dataset.prepare.negative must be"),
        ({"on_order_violation": "mend"}, "on_order_violation must be fix, drop, error or keep, not 'mend'"),
        ({"on_bad_line": "mend"}, "on_bad_line must be error or skip"),
        ({"min_count": 0}, "min_count must be above 0"),
        ({"valid_share": 0.9, "test_share": 0.1}, "leave some rows for training"),
        ({"fields": [*FIELDS, "watch_len"]}, "columns of its own named watch_len"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        prepare(write(tmp_path / "raw", log(40)), tmp_path / "out", **OPTIONS | options)


def test_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr(log_passes.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(SeqmtlError, match=r"preparing about 40 rows needs some .* GB on the disk"):
        prepare(write(tmp_path / "raw", log(40)), tmp_path / "out", **OPTIONS)


def mutated(whole: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(whole))
    kind = rng.randrange(7)
    if kind == 0:
        return whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :]
    if kind == 1:
        return whole[:at]
    if kind == 2:
        return whole[:at] + whole[at + rng.randrange(1, 30) :]
    if kind == 3:
        return whole[:at] + whole[at : at + rng.randrange(1, 200)] + whole[at:]
    if kind == 4:
        return (
            whole[:at]
            + rng.choice([b"99999999999999999999999", b"\n", b"\r", b'"', b",,,", b"\x00", b"-", b"\xc3", b"\\N"])
            + whole[at:]
        )
    if kind == 5:
        return whole.decode("latin-1").encode("utf-16")
    return whole[:at] + bytes(rng.randrange(256) for _ in range(20)) + whole[at:]


def fuzz(tmp_path: Path, kind: str, seeds: range) -> None:
    rows = log(60)
    raw = write(tmp_path / "raw", rows, kind, 1)
    path = raw / f"log-00000.{kind}"
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    for seed in seeds:
        text = mutated(whole, random.Random(seed))
        path.write_bytes(text)
        out = tmp_path / f"out-{seed}"
        try:
            prepare(raw, out, **OPTIONS, on_bad_line="skip", on_order_violation="drop")
        except SeqmtlError as e:
            said = str(e)
            assert path.name in said or "split would have no rows" in said, (seed, said)
            assert not (out / "meta.json").exists()
            continue
        meta = read_meta(out)
        found = converted(out, [*HISTORIES])
        assert all(0 <= row[field] < size for row in found.values() for field, size in meta.fields.items())
        if kind == "csv":
            n = text.count(b"\n") + (not text.endswith(b"\n")) - 1
            assert len(found) + sum(meta.dropped.values()) == n, seed
            if n == len(rows):  # lines that are as they were must have the labels that they had
                for number, row in found.items():
                    if text.split(b"\n")[number + 1] == lines[number + 1]:
                        assert {task: row[task] for task in PARENTS} == {task: rows[number][task] for task in PARENTS}, seed


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_damaged_files_end_in_words_or_in_counted_rows(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, range(MUTATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_many_damaged_files(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, range(MUTATIONS, 1000))


@pytest.mark.parametrize("step", ["reading log-00001.parquet", "histories and split", "writing"])
def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, step: str) -> None:
    raw = write(tmp_path / "raw", log(60))

    def interrupt(what: str, rows: int, share: float) -> None:
        if what == step:
            assert (tmp_path / "data" / ".log.partial" / ".spill").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "data" / "log") as partial:
        prepare(raw, partial, **OPTIONS, report=interrupt)
    assert not list((tmp_path / "data").iterdir())
