"""The converter against a raw file of 12 rows that shows every rule, and against a slow reference."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from aliccp_files import FIELDS, Pairs, assert_equals_slow, common_line, features, read_all, row_line, slow, small_raw, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.aliccp import prepare
from seqmtl.prepare.aliccp_split import python_generator

COMMON = {
    "a": [("101", 7), ("121", 3), ("205", 900), ("109_14", 4), ("109_14", 5)],  # 205 in common features overrides the row's
    "b": [("101", 8), ("121", 3), ("121", 5)],  # 121 repeats: 5 wins
    "c": [("101", 9)],  # 121 is missing
}
ROWS: list[tuple[int, int, str, Pairs]] = [
    (0, 0, "a", [("205", 800), ("206", 50), ("853", 1), ("853", 2), ("210", 77), ("210", 78)]),  # 853 repeats: 2 wins
    (1, 1, "b", [("205", 800), ("206", 50)]),
    (1, 0, "b", [("205", 800), ("206", 9)]),
    (0, 1, "b", [("205", 801), ("206", 9)]),  # a purchase without a click: dropped, and not counted
    (0, 0, "c", [("205", 801), ("206", 9)]),  # 801 is left with one occurrence: filtered
    (0, 0, "c", [("206", 100), ("101", 70)]),  # no 205; the user's 101 overrides 70
    (0, 0, "a", [("206", 100), ("853", 2)]),
    (1, 0, "a", [("206", 50), ("853", 1), ("301", 1)]),
    (0, 0, "b", [("206", 7), ("301", 1)]),  # 7 occurs once
    (0, 0, "b", []),
    (0, 0, "c", [("508", 2147483646)]),  # the largest id
    (0, 0, "c", [("508", 2147483646)]),
]
# By hand, min_count 2. Vocabularies: 101 {7,8,9}, 121 {3,5}, 205 {800,900}, 206 {9,50,100}, 853 {2}, 301 {1}, 508 {2147483646}.
# Columns: 101, 121, 205, 206, 853, 301, 508, click, purchase.
EXPECTED = {
    0: (1, 1, 2, 2, 1, 0, 0, 0, 0),
    1: (2, 2, 1, 2, 0, 0, 0, 1, 1),
    2: (2, 2, 1, 1, 0, 0, 0, 1, 0),
    4: (3, 0, 0, 1, 0, 0, 0, 0, 0),
    5: (3, 0, 0, 3, 0, 0, 0, 0, 0),
    6: (1, 1, 2, 3, 1, 0, 0, 0, 0),
    7: (1, 1, 2, 2, 0, 1, 0, 1, 0),
    8: (2, 2, 0, 0, 0, 1, 0, 0, 0),
    9: (2, 2, 0, 0, 0, 0, 0, 0, 0),
    10: (3, 0, 0, 0, 0, 0, 1, 0, 0),
    11: (3, 0, 0, 0, 0, 0, 1, 0, 0),
}
TEST_ROWS: list[tuple[int, int, str, Pairs]] = [
    (1, 1, "x", [("205", 800), ("206", 12345)]),  # an id that training has not
    (0, 1, "x", [("205", 800)]),
    (0, 0, "a", [("205", 900)]),  # the index "a" of the test file is another user
]


def test_twelve_rows_show_every_rule(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_raw(raw, "train", COMMON, ROWS)
    write_raw(raw, "test", {"x": [("101", 9), ("121", 5)], "a": [("101", 8)]}, TEST_ROWS)
    prepare(raw, out, min_count=2, split="random", valid_share=0.25, split_seed=6)
    data = read_all(out)

    names = ["101", "121", "205", "206", "853", "301", "508", "click", "purchase"]
    rows = {r["_row"]: tuple(r[n] for n in names) for split in ("train", "valid") for r in data[split].iter_rows(named=True)}
    assert rows == EXPECTED

    draws = np.random.default_rng(6).random(len(EXPECTED))  # one for each kept row, in file order
    valid = [row for row, draw in zip(EXPECTED, draws, strict=True) if draw >= 0.75]
    assert data["valid"]["_row"].to_list() == valid
    assert sorted(data["train"]["_row"]) == [row for row in EXPECTED if row not in valid]

    assert data["test"].select("_row", *names).rows() == [(0, 3, 2, 1, 0, 0, 0, 0, 1, 1), (2, 2, 0, 2, 0, 0, 0, 0, 0, 0)]

    meta = read_meta(out)
    assert meta.dropped == {"purchase_without_click": 2}
    assert tuple(meta.fields) == FIELDS
    assert {k: n for k, n in meta.fields.items() if n > 1} == {
        "101": 4, "121": 3, "205": 3, "206": 4, "853": 2, "301": 2, "508": 2
    }  # fmt: skip
    assert meta.parents == {"click": None, "purchase": "click"}
    assert meta.rows == {"train": 11 - len(valid), "valid": len(valid), "test": 2}
    assert set(meta.sources) == {p.name for p in raw.iterdir()}


def test_values_are_ignored_and_a_last_line_needs_no_line_feed(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    path = tmp_path / "raw" / "sample_skeleton_test.csv"
    path.write_text(path.read_text().replace("\x031.0", "\x03nonsense").rstrip("\n"))
    prepare(tmp_path / "raw", tmp_path / "out", min_count=1)
    assert read_meta(tmp_path / "out").rows["test"] == 40


def test_the_draws_are_those_of_python() -> None:
    rng, ours = random.Random(7), python_generator(7)
    assert [*ours.random(1999).tolist(), *ours.random(1).tolist()] == [rng.random() for _ in range(2000)]


def test_replay_draws_the_rows_of_the_script(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out", min_count=1)
    rng = random.Random(2020)  # its rule: one draw for each kept row, 0.9 or more is validation
    assert read_all(tmp_path / "out")["valid"]["_row"].to_list() == [i for i in range(40) if rng.random() >= 0.9]


def test_same_input_gives_the_same_bytes_and_shards_have_the_size_asked(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    for name in ("one", "two"):
        prepare(tmp_path / "raw", tmp_path / name, min_count=1, rows_per_shard=15)
    one, two = read_meta(tmp_path / "one"), read_meta(tmp_path / "two")
    assert one == two
    assert one.checksum
    for path, shard in one.shards.items():
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
        assert (tmp_path / "one" / path).stat().st_size == shard["bytes"]
        assert shard["rows"] <= 15
    assert [s["rows"] for p, s in one.shards.items() if p.startswith("test")] == [15, 15, 10]
    prepare(tmp_path / "raw", tmp_path / "three", min_count=1, rows_per_shard=15, shuffle_seed=1)
    assert read_meta(tmp_path / "three").checksum != one.checksum


def test_no_rows_in_a_split_is_an_error(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    text = (tmp_path / "raw" / "sample_skeleton_test.csv").read_text().splitlines(keepends=True)[0]
    (tmp_path / "raw" / "sample_skeleton_test.csv").write_text(text.replace("1,1,1,a", "1,0,1,a"))
    with pytest.raises(SeqmtlError, match=r"the test split would have no rows.*purchase_without_click"):
        prepare(tmp_path / "raw", tmp_path / "out", min_count=1)


Raw = tuple[dict[str, Pairs], list[tuple[int, int, str, Pairs]]]

pairs = st.lists(st.tuples(st.sampled_from(["101", "121", "205", "853", "210", "109_14"]), st.integers(0, 6)), max_size=7)


@st.composite
def part(draw: st.DrawFn) -> Raw:
    common = {index: draw(pairs) for index in ("u", "v", "w")}
    row = st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from(sorted(common)), pairs)
    return common, draw(st.lists(row, min_size=4, max_size=25))


@settings(max_examples=25, deadline=None)
@given(train=part(), test=part(), min_count=st.integers(1, 4), seed=st.integers(0, 9), order=st.randoms(use_true_random=False))
def test_converter_equals_a_slow_reference(train: Raw, test: Raw, min_count: int, seed: int, order: random.Random) -> None:
    with TemporaryDirectory() as name:
        raw, out = Path(name) / "raw", Path(name) / "out"
        for part_name, (common, rows) in (("train", train), ("test", test)):
            write_raw(raw, part_name, dict(order.sample(sorted(common.items()), len(common))), rows)
        splits, sizes, bad, impossible = slow(raw, min_count, np.random.default_rng(seed).random, 0.3)
        if not all(splits.values()):
            with pytest.raises(SeqmtlError, match="would have no rows"):
                prepare(raw, out, min_count=min_count, split="random", split_seed=seed, valid_share=0.3)
            return
        prepare(raw, out, min_count=min_count, split="random", split_seed=seed, valid_share=0.3)
        assert_equals_slow(out, splits, sizes)
        assert not bad
        assert read_meta(out).dropped == ({"purchase_without_click": impossible} if impossible else {})


SKELETON, SHARED = "sample_skeleton_train.csv", "common_features_train.csv"
GOOD = features([("205", 100), ("301", 1)])
BAD_LINES = {
    "fields": (SKELETON, "3,0,0,a,2", "5 comma-separated fields instead of 6", "fields"),
    "too many fields": (SKELETON, f"3,0,0,a,2,{GOOD},9", "7 comma-separated fields instead of 6", "fields"),
    "feature_num": (SKELETON, f"3,0,0,a,3,{GOOD}", "feature_num says '3', but there are 2 features", "feature_num"),
    "feature_num is no number": (SKELETON, f"3,0,0,a,x,{GOOD}", "feature_num says 'x'", "feature_num"),
    "label is no number": (SKELETON, f"3,yes,0,a,2,{GOOD}", "the click label is 'yes', it must be 0 or 1", "label"),
    "label is 2": (SKELETON, f"3,1,2,a,2,{GOOD}", "the purchase label is '2', it must be 0 or 1", "label"),
    "index": (SKELETON, f"3,0,0,nobody,2,{GOOD}", "the common-feature index 'nobody' is not in", "common_feature"),
    "negative id": (SKELETON, "3,0,0,a,1,205\x02-5\x031.0", "the id of field 205 is '-5', it must be a number", "id"),
    "id is a word": (SKELETON, "3,0,0,a,1,205\x02five\x031.0", "the id of field 205 is 'five'", "id"),
    "id is empty": (SKELETON, "3,0,0,a,1,205\x02\x031.0", "the id of field 205 is ''", "id"),
    "id is too large": (SKELETON, "3,0,0,a,1,205\x029999999999\x031.0", "the id of field 205 is '9999999999'", "id"),
    "form": (SKELETON, "3,0,0,a,1,205\x03100\x021.0", "is not of the form field", "feature"),
    "utf8": (SKELETON, b"3,0,0,a,1,210\x02\xff\x031.0", r"byte 15 \(0xff\) is not UTF-8", "utf8"),
    "empty line": (SKELETON, "", "1 comma-separated fields instead of 6", "fields"),
    "id has many digits": (SKELETON, "3,0,0,a,1,205\x0200000000005\x031.0", "the id of field 205 is '00000000005'", "id"),
    "id is the last but one that fits": (SKELETON, "3,0,0,a,1,205\x022147483647\x031.0", "a number from 0 to 2147483646", "id"),
    "id that is not the last": (SKELETON, "3,0,0,a,2,205\x02x\x031.0\x01205\x025\x031.0", "the id of field 205 is 'x'", "id"),
    "separator": (SKELETON, "3\x01,0,0,a,1,205\x025\x031.0", "stands before the features", "feature"),
    "text, no features": (SKELETON, "3,0,0,a,0,x", "feature_num says '0', but there are 1 features", "feature_num"),
    "label is long": (SKELETON, "3,00,0,a,0,", "the click label is '00'", "label"),
    "common: fields": (SHARED, "z,1", "2 comma-separated fields instead of 3", "common_features: fields"),
    "common: id": (SHARED, "z,1,101\x02x\x031.0", "the id of field 101 is 'x'", "common_features: id"),
    "common: feature_num": (SHARED, f"z,9,{GOOD}", "feature_num says '9'", "common_features: feature_num"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "line", "words", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path: Path, file: str, line: str | bytes, words: str, reason: str) -> None:
    raw = tmp_path / "raw"
    small_raw(raw)
    lines = (raw / file).read_bytes().splitlines(keepends=True)
    lines.insert(2, (line.encode() if isinstance(line, str) else line) + b"\n")
    (raw / file).write_bytes(b"".join(lines))
    with pytest.raises(SeqmtlError, match=f"{file}, line 3: .*{words}.*dataset.prepare.on_bad_line=skip"):
        prepare(raw, tmp_path / "out", min_count=1)
    prepare(raw, tmp_path / "skipped", min_count=1, on_bad_line="skip")
    meta = read_meta(tmp_path / "skipped")
    assert meta.dropped == {reason: 1}
    assert meta.rows["train"] + meta.rows["valid"] == 40


@pytest.mark.parametrize("file", [SKELETON, SHARED])
def test_a_file_cut_in_the_middle_of_a_line(tmp_path: Path, file: str) -> None:
    raw = tmp_path / "raw"
    small_raw(raw)
    text = (raw / file).read_bytes()
    extra = (
        row_line(41, 0, 0, "a", [("205", 1), ("301", 1)]) if file == SKELETON else common_line("z", [("101", 1), ("121", 1)])
    ).encode()
    (raw / file).write_bytes(text + extra[:-12])
    number = text.count(b"\n") + 1
    with pytest.raises(SeqmtlError, match=f"{file}, line {number}: the file ends in the middle of this line"):
        prepare(raw, tmp_path / "out", min_count=1)
    prepare(raw, tmp_path / "skipped", min_count=1, on_bad_line="skip")
    assert read_meta(tmp_path / "skipped").dropped == {"truncated" if file == SKELETON else "common_features: truncated": 1}


def test_an_empty_file(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    (tmp_path / "raw" / SKELETON).write_bytes(b"")
    with pytest.raises(SeqmtlError, match=f"{SKELETON} is empty"):
        prepare(tmp_path / "raw", tmp_path / "out", on_bad_line="skip")


def test_missing_files_say_where_they_come_from(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    (tmp_path / "raw" / SKELETON).unlink()
    with pytest.raises(SeqmtlError) as e:
        prepare(tmp_path / "raw", tmp_path / "out")
    for words in (SKELETON, str(tmp_path / "raw"), "https://tianchi.aliyun.com/dataset/408", "seqmtl prepare dataset=aliccp_sim"):
        assert words in str(e.value)
    assert "common_features_train.csv" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_bad_line": "ignore"}, "error or skip"),
        ({"split": "random", "valid_share": 0.0}, "valid_share must lie between 0 and 1"),
        ({"valid_share": 0.2}, "split=replay repeats the split of AITM's script, whose valid_share is 0.1, not 0.2"),
        ({"split_seed": 1}, "whose split_seed is 2020, not 1; with dataset.prepare.split=random any other is possible"),
        ({"split": "user"}, "split must be replay or random"),
        ({"min_count": 0}, "min_count must be above 0"),
        ({"rows_per_shard": 0}, "rows_per_shard"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, object], words: str) -> None:
    small_raw(tmp_path / "raw")
    with pytest.raises(SeqmtlError, match=words):
        prepare(tmp_path / "raw", tmp_path / "out", **options)  # type: ignore[arg-type]
