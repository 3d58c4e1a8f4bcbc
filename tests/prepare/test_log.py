"""The converter of any log against plain Python, in Parquet and CSV, however the files and the passes are cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_reference import (
    BEHAVIOURS,
    FIELDS,
    HISTORIES,
    OPTIONS,
    PARENTS,
    Row,
    converted,
    expected,
    history,
    log,
    time_split,
    user_tail,
    write,
)

from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import csv_table, log_files, log_passes
from seqmtl.prepare.log import prepare


def reference(
    rows: list[Row], splits: list[str], min_count: int = 2, window: int | None = None
) -> tuple[dict[int, Row], dict[str, int]]:
    past: dict[str, Callable[[int], list[Any]]] = {
        name: lambda j, t=task, v=label: history(rows, j, "user", "item", t, v, window if v == 0 else None)  # type: ignore[misc]
        for name, (task, label) in BEHAVIOURS.items()
    }
    return expected(rows, splits, FIELDS, [*PARENTS], past, "item", min_count)


@given(
    st.integers(12, 60), st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.sampled_from(["parquet", "csv"]), st.integers(1, 3)
)
@settings(max_examples=12, deadline=None)
def test_the_same_as_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, min_count: int, kind: str, files: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("log")
    rows = log(n, seed)
    prepare(write(tmp_path / "raw", rows, kind, files), tmp_path / "out", **OPTIONS, min_count=min_count)
    found = converted(tmp_path / "out", [*HISTORIES])
    wanted, sizes = reference(rows, time_split(rows, 0.1, 0.1), min_count)
    assert found == wanted
    assert read_meta(tmp_path / "out").fields == sizes
    for split in ("valid", "test"):
        numbers = [number for number, row in found.items() if row["split"] == split]
        assert numbers == sorted(numbers)
    assert not (tmp_path / "out" / ".spill").exists()


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_of_skips(tmp_path: Path, window: int) -> None:
    rows = log(80)
    prepare(write(tmp_path / "raw", rows), tmp_path / "out", **OPTIONS, negative={"window": window})
    assert converted(tmp_path / "out", [*HISTORIES]) == reference(rows, time_split(rows, 0.1, 0.1), window=window)[0]


def test_skips_by_chance_are_some_of_them(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", log(400))
    prepare(raw, tmp_path / "all", **OPTIONS)
    prepare(raw, tmp_path / "some", **OPTIONS, negative={"keep_prob": 0.4})
    whole, some = converted(tmp_path / "all", [*HISTORIES]), converted(tmp_path / "some", [*HISTORIES])
    for number, row in whole.items():
        left = iter(row["past_non_click"])
        assert all(v in left for v in some[number]["past_non_click"])  # in order
        assert some[number] | {"past_non_click": 0} == row | {"past_non_click": 0}
    lengths = [sum(len(row["past_non_click"]) for row in rows.values()) for rows in (some, whole)]
    assert lengths[0] / lengths[1] == pytest.approx(0.4, abs=0.1)


def test_users_tails_and_other_splits(tmp_path: Path) -> None:
    rows = [row | {"user": row["user"] or 0} for row in log(120)]
    raw = write(tmp_path / "raw", rows)
    prepare(raw, tmp_path / "tail", **OPTIONS, split="user_tail", valid_share=0.2)
    assert converted(tmp_path / "tail", [*HISTORIES]) == reference(rows, user_tail(rows, "user", 0.2, 0.1))[0]
    prepare(raw, tmp_path / "users", **OPTIONS, split="user_holdout", valid_share=0.3, test_share=0.3, split_seed=2)
    of_users = converted(tmp_path / "users")
    assert all(len({of_users[j]["split"] for j, row in enumerate(rows) if row["user"] == user}) == 1 for user in range(6))
    prepare(raw, tmp_path / "random", **OPTIONS, split="random")
    assert {row["split"] for row in converted(tmp_path / "random").values()} == set(SPLITS)


def test_parquet_and_csv_give_the_same_dataset(tmp_path: Path) -> None:
    rows = log(200)
    for kind, files in (("parquet", 1), ("csv", 3)):
        prepare(write(tmp_path / f"raw-{kind}", rows, kind, files), tmp_path / kind, **OPTIONS)
    assert read_meta(tmp_path / "parquet").checksum == read_meta(tmp_path / "csv").checksum


def test_types_of_the_columns_do_not_matter(tmp_path: Path) -> None:
    rows = [row | {"item": abs(row["item"]) % 1000, "city": row["city"] or None} for row in log(100)]
    prepare(write(tmp_path / "raw", rows), tmp_path / "plain", **OPTIONS)
    frame = pl.read_parquet(sorted((tmp_path / "raw").glob("*.parquet")))
    (tmp_path / "typed").mkdir()
    typed = frame.with_columns(
        pl.col("item").cast(pl.UInt16),
        pl.col("hour").cast(pl.Int8),
        pl.col("city").cast(pl.Categorical),
        pl.col("watch").cast(pl.Boolean),
    )
    typed.write_parquet(tmp_path / "typed" / "log-1.parquet")
    prepare(tmp_path / "typed", tmp_path / "other", **OPTIONS)
    assert read_meta(tmp_path / "plain").checksum == read_meta(tmp_path / "other").checksum


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rows = log(150)
    raw = write(tmp_path / "raw", rows, kind)
    prepare(raw, tmp_path / "whole", **OPTIONS)
    monkeypatch.setattr(log_files, "ROWS", 7)
    monkeypatch.setattr(csv_table, "BLOCK", 300)
    prepare(raw, tmp_path / "pieces", **OPTIONS, rows_per_shard=13)
    whole, pieces = converted(tmp_path / "whole", [*HISTORIES]), converted(tmp_path / "pieces", [*HISTORIES])
    assert list(whole.items()) == list(pieces.items())  # and in the same order
    monkeypatch.setattr(log_passes, "BUCKET", 20)
    monkeypatch.setattr(log_passes, "PIECE", 11)
    prepare(raw, tmp_path / "buckets", **OPTIONS)
    buckets = converted(tmp_path / "buckets", [*HISTORIES])
    assert buckets == whole
    assert list(buckets) != list(whole)  # only the order of the training rows is another one
    assert [n for n in buckets if buckets[n]["split"] != "train"] == [n for n in whole if whole[n]["split"] != "train"]


def test_training_rows_are_shuffled_by_their_seed(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", log(100))
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        prepare(raw, tmp_path / str(number), **OPTIONS, shuffle_seed=seed)
        orders.append(list(converted(tmp_path / str(number))))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:80] != sorted(orders[0][:80]) == list(range(80))


def test_without_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_passes, "BUCKET", 16)
    rows = log(100)
    prepare(write(tmp_path / "raw", rows), tmp_path / "out", fields=FIELDS, parents=PARENTS, valid_share=0.05, test_share=0.2)
    wanted, sizes = expected(rows, time_split(rows, 0.05, 0.2), FIELDS, [*PARENTS], {}, None, 2)
    assert converted(tmp_path / "out") == wanted
    meta = read_meta(tmp_path / "out")
    assert (meta.fields, meta.histories, meta.statistics) == (sizes, {}, {})


def broken(rows: list[Row]) -> list[Row]:
    rows = [dict(row) for row in rows]
    rows[4] |= {"watch": 0, "click": 1, "entering": 1, "conversion": 1}
    rows[9] |= {"watch": 1, "click": 0, "entering": 0, "conversion": 1}
    return rows


def test_steps_without_their_parents_four_ways(tmp_path: Path) -> None:
    rows = broken(log(60))
    raw = write(tmp_path / "raw", rows)
    with pytest.raises(SeqmtlError, match=r"click_without_watch in 1 rows, the first is row 4 of the log.*on_order_violation=fix"):
        prepare(raw, tmp_path / "error", **OPTIONS)

    prepare(raw, tmp_path / "fix", **OPTIONS, on_order_violation="fix")
    lowered = [dict(row) for row in rows]
    lowered[4] |= {"click": 0, "entering": 0, "conversion": 0}
    lowered[9] |= {"conversion": 0}
    assert converted(tmp_path / "fix", [*HISTORIES]) == reference(lowered, time_split(rows, 0.1, 0.1))[0]
    assert read_meta(tmp_path / "fix").fixed == {
        "click_without_watch": 1,
        "entering_without_watch": 1,
        "conversion_without_entering": 2,
    }

    prepare(raw, tmp_path / "drop", **OPTIONS, on_order_violation="drop")
    found = converted(tmp_path / "drop", [*HISTORIES])
    assert set(range(60)) - set(found) == {4, 9}
    assert read_meta(tmp_path / "drop").dropped == {"click_without_watch": 1, "conversion_without_entering": 1}
    assert {row["split"]: number for number, row in sorted(found.items(), reverse=True)} == {"train": 0, "valid": 48, "test": 54}

    prepare(raw, tmp_path / "keep", **OPTIONS, on_order_violation="keep")
    assert converted(tmp_path / "keep", [*HISTORIES]) == reference(rows, time_split(rows, 0.1, 0.1))[0]
    violations = {"click_without_watch": 1, "entering_without_watch": 1, "conversion_without_entering": 1}
    assert read_meta(tmp_path / "keep").statistics["order_violations"] == violations


def truth(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame({"_row": np.arange(len(rows))} | {task: np.arange(len(rows)) + t / 10 for t, task in enumerate(PARENTS)})


def test_the_truth_of_a_row_goes_where_the_row_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_passes, "BUCKET", 20)
    monkeypatch.setattr(log_files, "ROWS", 9)
    rows = broken(log(100))
    raw = write(tmp_path / "raw", rows)
    truth(rows).write_parquet(raw / "oracle_log.parquet", row_group_size=33)
    prepare(raw, tmp_path / "out", **OPTIONS, on_order_violation="drop")
    for split in SPLITS:
        oracle = pl.read_parquet(tmp_path / "out" / "oracle" / f"{split}.parquet")
        shards = pl.read_parquet(sorted((tmp_path / "out" / split).glob("*.parquet")))
        assert oracle["_row"].to_list() == shards["_row"].to_list()
        for t, task in enumerate(PARENTS):
            assert oracle[task].to_numpy() == pytest.approx(oracle["_row"].to_numpy() + t / 10)
    truth(rows)[:-1].write_parquet(raw / "oracle_log.parquet")
    with pytest.raises(SeqmtlError, match=r"oracle_log\.parquet does not hold the rows"):
        prepare(raw, tmp_path / "short", **OPTIONS, on_order_violation="drop")


def test_rates_by_position_tell_a_log_that_was_sorted_by_its_labels(tmp_path: Path) -> None:
    rows = [row | {"user": number % 3, "watch": int(number < 60), "click": 0, "entering": 0, "conversion": 0}
            for number, row in enumerate(log(300))]  # fmt: skip
    prepare(write(tmp_path / "raw", rows), tmp_path / "out", **OPTIONS)
    statistics = read_meta(tmp_path / "out").statistics
    assert statistics["users"] == 3
    by_position = statistics["rates_by_position"]
    assert [row["position"] for row in by_position][::19] == ["0-5 %", "95-100 %"]
    assert [row["rows"] for row in by_position] == [15] * 20
    assert [row["watch"] for row in by_position] == [1.0] * 4 + [0.0] * 16


def test_a_text_column_of_numbers_is_numbered_by_size(tmp_path: Path) -> None:
    rows = [row | {"city": str((100, 9, 20)[number % 3])} for number, row in enumerate(log(60))]
    prepare(write(tmp_path / "raw", rows), tmp_path / "out", **OPTIONS)
    found = converted(tmp_path / "out")
    assert [found[number]["city"] for number in range(3)] == [3, 1, 2]


def test_meta_holds_what_was_asked(tmp_path: Path) -> None:
    prepare(write(tmp_path / "raw", log(60)), tmp_path / "out", options={"a": 1}, **OPTIONS)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["options"] == {"a": 1}
    assert {name: h["field"] for name, h in meta["histories"].items()} == dict.fromkeys(HISTORIES, "item")
    assert set(meta["sources"]) == {"log-00000.parquet", "log-00001.parquet"}
    assert set(meta["statistics"]["history_lengths"]["watch"]) == set(SPLITS)
