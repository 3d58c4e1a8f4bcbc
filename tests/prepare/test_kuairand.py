"""KuaiRand-Pure: small files written by hand, and the real slice where there is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from seqmtl.data.meta import OUTCOMES, SPLITS, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import kuairand
from seqmtl.prepare.kuairand import _bins, prepare

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,"
    "duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USER = ",".join(("user_id", "is_lowactive_period", *kuairand.USER, *kuairand.USER_NUMBERS))
VIDEO = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,"
    "music_type,tag"
)


def impression(time: int, user: int = 1, video: int = 5, click: int = 0, view: int = 0, like: int = 0, hourmin: int = 1400) -> str:
    return f"{user},{video},20220425,{hourmin},{time},{click},{like},0,0,0,0,{view},99,10000,0,0,0,0,1"


def user(number: int, follow: str = "3") -> str:
    return ",".join([str(number), "0", "full_active", "0", "1", '"[10,100)"', *["x"] * 21, follow, "1", "2", "700"])


def video(number: int, tag: str = '"3,39"', duration: str = "8000.0", day: str = "2022-04-10") -> str:
    return f"{number},{number + 70},NORMAL,{day},Web,0.0,{duration},720.0,1280.0,9155697141,9.0,{tag}"


IMPRESSIONS = [impression(1000 + i, user=1 + i % 2, video=5 + i % 2, click=i % 2, view=int(i % 4 == 1)) for i in range(20)]


def write(raw: Path, log: Sequence[str] = IMPRESSIONS, name: str = "log_standard_4_22_to_5_08_pure.csv") -> Path:
    raw.mkdir(parents=True, exist_ok=True)
    (raw / name).write_text("\n".join([LOG, *log]) + "\n")
    (raw / "user_features_pure.csv").write_text("\n".join([USER, user(1, "3"), user(2, "4")]) + "\n")
    (raw / "video_features_basic_pure.csv").write_text("\n".join([VIDEO, video(5), video(6, "3"), video(7, "")]) + "\n")
    return raw


def read(directory: Path) -> dict[str, pl.DataFrame]:
    return {split: pl.read_parquet(sorted((directory / split).glob("*.parquet"))) for split in SPLITS}


def test_split_by_time_and_ids_of_the_training_part(tmp_path: Path) -> None:
    log = [*IMPRESSIONS[10:], *IMPRESSIONS[:10]]  # not in the order of time
    log[9] = impression(1019, user=2, video=7)  # the last in time: a video that training has not
    prepare(write(tmp_path / "raw", log), tmp_path / "out")
    data, meta = read(tmp_path / "out"), read_meta(tmp_path / "out")
    assert meta.rows == {"train": 16, "valid": 2, "test": 2}
    assert data["train"]["_row"].to_list() == [*range(10, 20), *range(6)]
    assert data["test"]["_row"].to_list() == [8, 9]
    assert meta.fields["video_id"] == 3
    assert data["train"]["video_id"].to_list() == [1, 2] * 8
    assert data["test"]["video_id"].to_list() == [1, 0]
    assert meta.parents == {"click": None, "long_view": "click", "like": "click"}
    assert data["train"]["click"].to_list() == [0, 1] * 8


def test_equal_times_keep_the_order_of_the_file_and_all_logs_are_read(tmp_path: Path) -> None:
    write(tmp_path / "raw", [impression(7) for _ in range(8)], "log_standard_4_08_to_4_21_pure.csv")
    write(tmp_path / "raw", [impression(7, user=2) for _ in range(12)])
    (tmp_path / "raw" / "log_random_4_22_to_5_08_pure.csv").write_text("not a standard log\n")
    prepare(tmp_path / "raw", tmp_path / "out")
    data = read(tmp_path / "out")
    assert [row for split in SPLITS for row in data[split]["_row"].to_list()] == list(range(20))
    assert data["train"]["user_id"].to_list() == [1] * 8 + [2] * 8
    assert len(read_meta(tmp_path / "out").sources) == 4


def test_features_of_the_row(tmp_path: Path) -> None:
    log = [impression(i, video=5 + i % 3, hourmin=(0, 900, 2300)[i % 3]) for i in range(30)]
    prepare(write(tmp_path / "raw", log), tmp_path / "out")
    train, meta = read(tmp_path / "out")["train"], read_meta(tmp_path / "out")
    assert train["hour"].to_list() == [1, 2, 3] * 8  # 0, 9, 23
    assert train["tag"].to_list() == [1, 1, 0] * 8  # "3,39" and "3" are one tag, none is 0
    assert meta.fields["tag"] == 2
    assert train["author_id"].to_list() == [1, 2, 3] * 8
    assert meta.fields["upload_age_days"] == 2  # 15 days each: one bin
    assert set(meta.fields) & OUTCOMES == set()
    assert not {"duration_ms", "is_rand", "is_lowactive_period", "visible_status", "time_ms"} & set(meta.fields)


def test_rare_categories_are_filtered(tmp_path: Path) -> None:
    log = [impression(i, user=2 if i == 3 else 1) for i in range(20)]
    for min_count, ids in ((2, [1, 1, 1, 0, 1]), (1, [1, 1, 1, 2, 1])):
        prepare(write(tmp_path / "raw", log), tmp_path / str(min_count), min_count=min_count)
        assert read(tmp_path / str(min_count))["train"]["user_id"].to_list()[:5] == ids


def test_ids_are_numbered_as_numbers(tmp_path: Path) -> None:
    log = [impression(i, user=(100, 9, 20)[i % 3]) for i in range(30)]
    write(tmp_path / "raw", log)
    prepare(tmp_path / "raw", tmp_path / "out")
    assert read(tmp_path / "out")["train"]["user_id"].to_list()[:3] == [3, 1, 2]
    assert read(tmp_path / "out")["train"]["follow_user_num"].to_list()[:3] == [0, 0, 0]  # users without features


def test_quantiles_come_from_the_training_rows() -> None:
    values = np.array([4.0, 1.0, 2.0, 3.0, np.nan, -50.0, 2.5, 900.0])
    ids, size = _bins(values, 4, 4)
    assert ids.tolist() == [4, 1, 2, 3, 0, 1, 2, 4]
    assert size == 5
    ids, size = _bins(np.array([5.0, 5.0, 5.0, np.nan, 6.0]), 3, 32)
    assert (ids.tolist(), size) == ([1, 1, 1, 0, 1], 2)
    ids, size = _bins(np.array([np.nan, np.nan, 6.0]), 2, 32)
    assert size == 2
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=5000)
    ids, size = _bins(values, 4000, 32)
    assert size == 33
    assert np.bincount(ids[:4000])[1:] == pytest.approx(125, abs=2)


BROKEN = [*IMPRESSIONS[:4], impression(1004, view=1), impression(1005, view=1, like=1), impression(1006, like=1), *IMPRESSIONS[7:]]


def test_order_violations_three_ways(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", BROKEN)
    prepare(raw, tmp_path / "fix")
    meta, data = read_meta(tmp_path / "fix"), pl.concat(read(tmp_path / "fix").values())
    assert meta.fixed == {"long_view_without_click": 2, "like_without_click": 2}
    assert meta.dropped == {}
    assert len(data) == 20
    assert data.filter((pl.col("long_view") > pl.col("click")) | (pl.col("like") > pl.col("click"))).is_empty()
    assert data["long_view"].sum() == 4  # rows 1, 9, 13, 17

    prepare(raw, tmp_path / "drop", on_order_violation="drop")
    meta, data = read_meta(tmp_path / "drop"), pl.concat(read(tmp_path / "drop").values())
    assert meta.dropped == {"long_view_without_click": 2, "like_without_click": 1}  # a row once, under its first rule
    assert data["_row"].to_list() == [*range(4), *range(7, 20)]
    assert meta.fixed == {}

    with pytest.raises(SeqmtlError, match=r"long_view_without_click in 2 rows, like_without_click in 2 rows.*impression 4 "):
        prepare(raw, tmp_path / "error", on_order_violation="error")


def change(row: int, column: str, value: str) -> list[str]:
    lines = list(IMPRESSIONS)
    parts = lines[row].split(",")
    parts[LOG.split(",").index(column)] = value
    lines[row] = ",".join(parts)
    return lines


@pytest.mark.parametrize(
    ("log", "words", "reason"),
    [
        (change(3, "is_click", "yes"), "column is_click is 'yes', it must be 0 or 1", "label"),
        (change(3, "long_view", "2"), "column long_view is '2', it must be 0 or 1", "label"),
        (change(3, "is_like", ""), "column is_like is empty, it must be 0 or 1", "label"),
        (change(3, "time_ms", "noon"), "column time_ms is 'noon', it must be a number", "time_ms"),
        (change(3, "user_id", "-4"), "column user_id is '-4', it must be a number", "user_id"),
        (change(3, "date", "25 April"), "column date is '25 April'", "date"),
        (change(3, "tab", "1,7"), "20 comma-separated fields instead of 19", "fields"),
        ([*IMPRESSIONS[:3], "1,5,2022", *IMPRESSIONS[4:]], "3 comma-separated fields instead of 19", "fields"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, log: list[str], words: str, reason: str) -> None:
    raw = write(tmp_path / "raw", log)
    with pytest.raises(SeqmtlError, match=f"log_standard_4_22_to_5_08_pure.csv, line 5: {words}.*on_bad_line=skip"):
        prepare(raw, tmp_path / "out")
    prepare(raw, tmp_path / "skip", on_bad_line="skip")
    meta = read_meta(tmp_path / "skip")
    assert meta.dropped == {reason: 1}
    rows = [row for frame in read(tmp_path / "skip").values() for row in frame["_row"].to_list()]
    assert rows == [row for row in range(20) if row != 3]


def test_bytes_that_are_not_utf8_and_a_cut_file(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw")
    path = raw / "log_standard_4_22_to_5_08_pure.csv"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b",99,", b",\xff9,", 1))
    with pytest.raises(SeqmtlError, match=r"pure.csv, line 2: byte \d+ \(0xff\) is not UTF-8"):
        prepare(raw, tmp_path / "out")
    path.write_bytes(whole[:-20])
    with pytest.raises(SeqmtlError, match=r"pure.csv, line 21: the file ends in the middle of this line"):
        prepare(raw, tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(SeqmtlError, match=r"pure.csv is empty"):
        prepare(raw, tmp_path / "out")
    path.write_bytes(whole.replace(b",long_view,", b",lng_view,", 1))
    with pytest.raises(SeqmtlError, match=r"pure.csv, line 1: no column long_view; the header has user_id"):
        prepare(raw, tmp_path / "out")


def test_bad_feature_files(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw")
    users = raw / "user_features_pure.csv"
    users.write_text("\n".join([USER, user(1, "many"), user(2), user(2)]) + "\n")
    with pytest.raises(SeqmtlError, match=r"user_features_pure.csv, line 2: column follow_user_num is 'many'"):
        prepare(raw, tmp_path / "out")
    users.write_text("\n".join([USER, user(1), user(2), user(2)]) + "\n")
    with pytest.raises(SeqmtlError, match=r"user_features_pure.csv, line 4: user_id 2 stands a second time"):
        prepare(raw, tmp_path / "out")
    prepare(raw, tmp_path / "skip", on_bad_line="skip")
    assert read_meta(tmp_path / "skip").dropped == {"user_features_pure: twice": 1}
    assert sum(read_meta(tmp_path / "skip").rows.values()) == 20


def test_missing_files_and_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError) as e:
        prepare(tmp_path / "raw", tmp_path / "out")
    for words in (
        "log_standard*_pure.csv",
        "user_features_pure.csv",
        "video_features_basic_pure.csv",
        "https://kuairand.com",
        "aliccp_sim",
    ):
        assert words in str(e.value)
    with pytest.raises(SeqmtlError, match="the valid split would have no rows"):
        prepare(write(tmp_path / "raw", IMPRESSIONS[:3]), tmp_path / "out")


@pytest.mark.parametrize("options", [{"on_order_violation": "mend"}, {"valid_share": 0.6, "test_share": 0.6}, {"quantiles": 0}])
def test_wrong_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SeqmtlError, match=r"dataset\.prepare\."):
        prepare(write(tmp_path / "raw"), tmp_path / "out", **options)


def past(directory: Path) -> dict[int, dict[str, list[int]]]:
    """The histories of each row, by its number."""
    flat = {name: np.load(directory / "histories" / f"{name}.npy") for name in kuairand.HISTORIES}
    return {
        row["_row"]: {
            name: ids[row[f"{name}_end"] - row[f"{name}_len"] : row[f"{name}_end"]].tolist() for name, ids in flat.items()
        }
        for frame in read(directory).values()
        for row in frame.iter_rows(named=True)
    }


@pytest.mark.parametrize("how", ["fix", "drop"])
def test_histories_are_the_users_earlier_rows_in_time(tmp_path: Path, how: str) -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(0, 12, 60)  # many ties
    log = [
        impression(int(time), user=1 + int(rng.integers(3)), video=5 + int(rng.integers(4)), click=int(c), view=int(v), like=int(k))
        for time, c, v, k in zip(times, *rng.integers(0, 2, (3, 60)), strict=True)
    ]
    prepare(write(tmp_path / "raw", log), tmp_path / "out", on_order_violation=how)
    found, rows = past(tmp_path / "out"), pl.concat(read(tmp_path / "out").values()).rows(named=True)
    when = {j: int(time) for j, time in enumerate(times)}
    for row in rows:  # a row of the same moment is none of the past, or a repeated row would tell its twin's label
        mine = [r for r in rows if r["user_id"] == row["user_id"] and when[r["_row"]] < when[row["_row"]]]
        for name, (task, label) in kuairand.HISTORIES.items():
            assert found[row["_row"]][name] == [r["video_id"] for r in mine if r[task] == label]
    meta = read_meta(tmp_path / "out")
    assert {h["field"] for h in meta.histories.values()} == {"video_id"}
    assert meta.histories["click"]["items"] + meta.histories["negative"]["items"] == len(rows)


def test_no_later_row_changes_a_history(tmp_path: Path) -> None:
    prepare(write(tmp_path / "raw"), tmp_path / "out")
    changed = [*IMPRESSIONS[:13], impression(1013, user=2, video=6), *IMPRESSIONS[14:]]
    prepare(write(tmp_path / "raw", changed), tmp_path / "changed")
    before, after = past(tmp_path / "out"), past(tmp_path / "changed")
    assert [before[row] for row in range(14)] == [after[row] for row in range(14)]
    assert any(before[row] != after[row] for row in range(14, 20))


REAL = Path(os.environ.get("SEQMTL_KUAIRAND_RAW", Path(__file__).parents[2] / ".." / "shared" / "data" / "kuairand"))


@pytest.mark.data
@pytest.mark.skipif(not REAL.exists(), reason="no slice of KuaiRand here (SEQMTL_KUAIRAND_RAW)")
def test_the_real_slice_has_the_counts_it_should(tmp_path: Path) -> None:
    prepare(REAL, tmp_path / "fix")
    prepare(REAL, tmp_path / "drop", on_order_violation="drop")
    fixed, dropped = read_meta(tmp_path / "fix"), read_meta(tmp_path / "drop")
    positives = {task: sum(fixed.positives[split][task] for split in SPLITS) for task in fixed.parents}
    assert sum(fixed.rows.values()) == 94_784
    assert [fixed.rows[split] for split in SPLITS] == [75_828, 9_478, 9_478]
    assert fixed.fixed == {"long_view_without_click": 104, "like_without_click": 291}
    assert positives == {"click": 41_503, "long_view": 29_123 - 104, "like": 1_625 - 291}
    assert sum(dropped.rows.values()) == 94_784 - sum(dropped.dropped.values())
    assert max(104, 291) <= sum(dropped.dropped.values()) <= 104 + 291
    assert {name: h["items"] for name, h in fixed.histories.items()} == positives | {"negative": 94_784 - 41_503}
    data = read(tmp_path / "fix")
    assert data["train"].n_unique() == 75_828  # `_row` tells repeated impressions apart
    for name, size in fixed.fields.items():
        ids = data["train"][name]
        assert ids.max() == size - 1, name  # every id is met in training
        assert data["test"][name].n_unique() > 1, name
