"""Tenrec's converter: its quirks, and everything else against plain Python on small files of the same form."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from log_reference import Row, converted, expected, history, user_tail

from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import csv_table, log_passes
from seqmtl.prepare.csv_table import CsvFile
from seqmtl.prepare.tenrec import FIELDS, HISTORIES, SUBSETS, TASKS, _expected, prepare

HEADER = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"
NUMBERS = (0, 1, 6, 8, 9)  # places of the fields


def line(rng: random.Random, user: int) -> str:
    click = int(rng.random() < 0.3)
    other = [int(rng.random() < 0.1) for _ in range(3)]
    category = rng.choice(["0", "7", "12", "", r"\N"])
    item, gender = rng.choice([5, 1_000_000, 77, 300_000_000]), rng.choice(["1", "2", r"\N"])
    return ",".join(map(str, [user, item, click, *other, category, click * 3, gender, user % 4]))


def lines(n: int, seed: int = 0, users: Sequence[int] = (4, 900_000, 17, 1_000_016, 1_000_017, 2_000_000)) -> list[str]:
    """Rows of users in turns: the file need not be grouped."""
    rng = random.Random(seed)
    return [line(rng, rng.choice(users)) for _ in range(n)]


def write(raw: Path, rows: Sequence[str]) -> Path:
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "QK-video.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return raw


def as_rows(rows: Sequence[str]) -> list[Row]:
    made = []
    for row in rows:
        parts = row.split(",")
        fields = {name: int(parts[i]) if parts[i] not in ("", r"\N") else None for name, i in zip(FIELDS, NUMBERS, strict=True)}
        made.append(fields | {task: int(parts[2 + t]) for t, task in enumerate(TASKS)})
    return made


def reference(
    rows: Sequence[str], splits: Callable[[list[Row]], list[str]], min_count: int = 1
) -> tuple[dict[int, Row], dict[str, int]]:
    """Of the rows of users in the 1M subset, by the number that they have among all rows."""
    whole = as_rows(rows)
    numbers = [i for i, row in enumerate(whole) if row["user_id"] < 1_000_017]
    kept = [whole[i] for i in numbers]
    past: dict[str, Callable[[int], list[Any]]] = {
        name: lambda j, t=task, v=label: history(kept, j, "user_id", "item_id", t, v)  # type: ignore[misc]
        for name, (task, label) in HISTORIES.items()
    }
    made, sizes = expected(kept, splits(kept), FIELDS, TASKS, past, "item_id", min_count)
    return {numbers[j]: row for j, row in made.items()}, sizes


def tails(rows: list[Row]) -> list[str]:
    return user_tail(rows, "user_id", 0.1, 0.1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_count", [1, 3])
def test_the_same_as_row_by_row(tmp_path: Path, seed: int, min_count: int) -> None:
    rows = lines(150, seed)
    prepare(write(tmp_path / "raw", rows), tmp_path / "out", min_count=min_count)
    found, (wanted, sizes) = converted(tmp_path / "out", [*HISTORIES]), reference(rows, tails, min_count)
    assert found == wanted
    meta = read_meta(tmp_path / "out")
    assert meta.fields == sizes
    outside = sum(int(row.split(",")[0]) >= 1_000_017 for row in rows)
    assert meta.dropped == {"user_outside_of_1M": outside}
    assert meta.parents == dict.fromkeys(TASKS)
    for split in ("valid", "test"):
        numbers = [number for number, row in found.items() if row["split"] == split]
        assert numbers == sorted(numbers)


def test_all_users(tmp_path: Path) -> None:
    prepare(write(tmp_path / "raw", lines(100)), tmp_path / "out", subset="all")
    assert sorted(converted(tmp_path / "out")) == list(range(100))
    assert read_meta(tmp_path / "out").dropped == {}


def test_the_order_of_rows_of_other_users_does_not_matter(tmp_path: Path) -> None:
    rows = lines(120)
    grouped = sorted(rows, key=lambda row: int(row.split(",")[0]))
    number = {id(row): i for i, row in enumerate(grouped)}
    for name, log in (("mixed", rows), ("grouped", grouped)):
        prepare(write(tmp_path / f"raw-{name}", log), tmp_path / name)
    mixed, sorted_rows = (converted(tmp_path / name, [*HISTORIES]) for name in ("mixed", "grouped"))
    assert {number[id(rows[i])]: row for i, row in mixed.items()} == sorted_rows


def test_blocks_and_buckets_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = lines(200)
    raw = write(tmp_path / "raw", rows)
    prepare(raw, tmp_path / "whole")
    monkeypatch.setattr(csv_table, "BLOCK", 100)
    prepare(raw, tmp_path / "blocks")
    assert read_meta(tmp_path / "blocks").checksum == read_meta(tmp_path / "whole").checksum
    monkeypatch.setattr(log_passes, "BUCKET", 20)
    prepare(raw, tmp_path / "buckets")
    assert converted(tmp_path / "buckets", [*HISTORIES]) == converted(tmp_path / "whole", [*HISTORIES])


def test_rows_by_chance_and_users_apart(tmp_path: Path) -> None:
    rows = lines(600, users=range(1, 80))
    raw = write(tmp_path / "raw", rows)
    prepare(raw, tmp_path / "rows", split="random_811")
    found = converted(tmp_path / "rows", [*HISTORIES])
    counts = read_meta(tmp_path / "rows").rows
    assert counts["train"] / 600 == pytest.approx(0.8, abs=0.06)
    assert counts["valid"] / 600 == pytest.approx(0.1, abs=0.05)
    assert found == reference(rows, lambda kept: [found[j]["split"] for j in range(600)])[0]
    prepare(raw, tmp_path / "users", split="user_holdout", valid_share=0.2, test_share=0.2)
    by_user: dict[str, set[str]] = {}
    for number, row in converted(tmp_path / "users").items():
        by_user.setdefault(rows[number].split(",")[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_user.values())
    assert {split for splits in by_user.values() for split in splits} == set(SPLITS)


def test_steps_without_a_click_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [f"1,{i % 3 + 1},{int(i % 2)},{int(i == 4)},1,0,3,0,1,1" for i in range(40)]
    prepare(
        write(tmp_path / "raw", rows),
        tmp_path / "out",
        parents={"click": None, "follow": "click", "like": "click", "share": "click"},
    )
    meta = read_meta(tmp_path / "out")
    assert meta.statistics["order_violations"] == {"follow_without_click": 1, "like_without_click": 20}
    assert meta.parents == {"click": None, "follow": "click", "like": "click", "share": "click"}
    assert sum(meta.positives[split]["like"] for split in SPLITS) == 40
    assert (meta.fixed, meta.dropped) == ({}, {})
    assert [row["click"] for row in meta.statistics["rates_by_position"]] == [0.5] * 20


def test_fewer_fields_and_none_that_is_an_outcome(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", lines(60))
    prepare(raw, tmp_path / "out", fields=["item_id", "user_id"])
    assert [*read_meta(tmp_path / "out").fields] == ["item_id", "user_id"]
    for fields, words in (
        ([*FIELDS, "watching_times"], "watching_times happens after the impression or is a label: it must not be a field"),
        ([*FIELDS, "like"], "like happens after the impression or is a label"),
        ([*FIELDS, "hour"], "must be user_id, item_id and any others of"),
        (["user_id", "age"], "must be user_id, item_id and any others of"),
    ):
        with pytest.raises(SeqmtlError, match=words):
            prepare(raw, tmp_path / "other", fields=fields)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("place", "text", "reason", "words"),
    [
        (0, "", "user_id", "column user_id is empty, it must be a whole number from 0 to"),
        (0, r"\N", "user_id", "column user_id is empty"),
        (0, "x9", "user_id", "column user_id is 'x9'"),
        (1, "-5", "item_id", "column item_id is '-5'"),
        (1, "99999999999999999999", "item_id", "column item_id is '99999999999999999999'"),
        (1, "2147483647", "item_id", "column item_id is '2147483647'"),
        (2, "2", "label", "column click is '2', it must be 0 or 1"),
        (3, "", "label", "column follow is empty, it must be 0 or 1"),
        (5, r"\N", "label", r"column share is '\\\\N', it must be 0 or 1"),
        (6, "1.5", "video_category", "column video_category is '1.5'"),
        (8, "f", "gender", "column gender is 'f'"),
        (9, "7,7", "fields", "11 comma-separated fields instead of 10"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, place: int, text: str, reason: str, words: str) -> None:
    rows = lines(50, users=(1, 2))
    parts = rows[7].split(",")
    parts[place] = text
    rows[7] = ",".join(parts)
    raw = write(tmp_path / "raw", rows)
    with pytest.raises(SeqmtlError, match=f"QK-video.csv, line 9: {words}.*on_bad_line=skip"):
        prepare(raw, tmp_path / "out")
    prepare(raw, tmp_path / "skip", on_bad_line="skip")
    assert read_meta(tmp_path / "skip").dropped == {reason: 1}
    assert set(range(50)) - set(converted(tmp_path / "skip")) == {7}


def test_a_column_that_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    rows = lines(50, users=(1, 2))
    parts = rows[7].split(",")
    parts[7] = "long"
    rows[7] = ",".join(parts)
    prepare(write(tmp_path / "raw", rows), tmp_path / "out")
    assert len(converted(tmp_path / "out")) == 50


def test_the_truth_of_a_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "BLOCK", 500)
    monkeypatch.setattr(log_passes, "BUCKET", 30)
    rows = lines(120)
    rows[30] = "1,2"  # a bad line has its truth too
    raw = write(tmp_path / "raw", rows)
    truth = {"_row": np.arange(120)} | {task: np.arange(120) + t / 10 for t, task in enumerate(TASKS)}
    pl.DataFrame(truth).write_parquet(raw / "oracle_QK-video.parquet")
    prepare(raw, tmp_path / "out", on_bad_line="skip")
    for split in SPLITS:
        oracle = pl.read_parquet(tmp_path / "out" / "oracle" / f"{split}.parquet")
        shards = pl.read_parquet(sorted((tmp_path / "out" / split).glob("*.parquet")))
        assert oracle["_row"].to_list() == shards["_row"].to_list()
        for t, task in enumerate(TASKS):
            assert oracle[task].to_numpy() == pytest.approx(oracle["_row"].to_numpy() + t / 10)


def test_what_is_missing_and_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError, match=r"(?s)there is no QK-video.csv in .*static.qblv.qq.com.*dataset=tenrec_sim"):
        prepare(tmp_path / "raw", tmp_path / "out")
    raw = write(tmp_path / "raw", lines(50))
    for options, words in (
        ({"split": "by_day"}, r"dataset\.prepare\.split must be one of user_tail, random_811, user_holdout"),
        ({"subset": "2M"}, r"dataset\.prepare\.subset must be one of 1M, all"),
        ({"split": "random_811", "test_share": 0.2}, "random_811 has a valid_share and a test_share of 0.1"),
        ({"parents": {"click": None}}, r"dataset\.prepare\.parents must name click, follow, like, share"),
        ({"parents": {"follow": "click", "click": None, "like": None, "share": None}}, "the parent 'click' of task 'follow'"),
        ({"negative": "few"}, r"dataset\.prepare\.negative must be"),
        ({"min_count": 0}, r"dataset\.prepare\.min_count"),
    ):
        with pytest.raises(SeqmtlError, match=words):
            prepare(raw, tmp_path / "out", **options)
    (raw / "QK-video.csv").write_text(HEADER + "\n")
    with pytest.raises(SeqmtlError, match="the train split would have no rows"):
        prepare(raw, tmp_path / "out")


def test_the_room_that_is_needed_is_that_of_the_rows_that_are_kept(tmp_path: Path) -> None:
    rows = [f"{user},1,0,0,0,0,1,0,1,1" for user in range(1, 40_001)]
    rows += [f"{user},1,0,0,0,0,1,0,1,1" for user in range(2_000_000, 2_120_000)]
    file = CsvFile(write(tmp_path, rows) / "QK-video.csv")
    assert file.rows() == pytest.approx(160_000, rel=0.03)
    assert _expected(file, SUBSETS["1M"]) == pytest.approx(40_000, rel=0.1)
    assert _expected(file, SUBSETS["all"]) == pytest.approx(160_000, rel=0.03)
