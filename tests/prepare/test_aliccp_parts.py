"""Parts of the converter: blocks and threads, users, counts, the shuffle, the truth of a simulation, the disk, the real file."""

from __future__ import annotations

import random
import shutil
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from aliccp_files import FIELDS, Pairs, read_all, slow_lines, small_raw, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import aliccp_real, aliccp_rows, aliccp_spill, aliccp_users, vocabulary
from seqmtl.prepare.aliccp import prepare
from seqmtl.prepare.aliccp_line import explain
from seqmtl.prepare.aliccp_tokens import read_lines
from seqmtl.prepare.aliccp_users import Keys, Users, padded
from seqmtl.prepare.vocabulary import MISSING, Counts, Vocabulary


def mixed_raw(raw: Path, rows: int = 300) -> None:
    """Rows with and without features, impossible ones, and some bad lines."""
    rng = random.Random(1)
    for part in ("train", "test"):
        common: dict[str, Pairs] = {f"user{i}": [("101", i), ("121", rng.randrange(5))] for i in range(20)}
        lines: list[tuple[int, int, str, Pairs]] = []
        for i in range(rows):
            pairs = [(name, rng.randrange(9)) for name in rng.choices(FIELDS, k=i % 7)]
            lines.append((int(i % 3 == 0), int(i % 9 in (0, 1)), f"user{rng.randrange(22)}", pairs))
        write_raw(raw, part, common, lines)


@pytest.mark.parametrize(
    ("block", "piece", "threads", "ahead"), [(1, 1, 1, 0), (700, 90, 3, 1), (5000, 5000, 2, 8), (1 << 22, 1, 2, 8)]
)
def test_the_result_does_not_depend_on_blocks_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, piece: int, threads: int, ahead: int
) -> None:
    mixed_raw(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "as is", min_count=2, on_bad_line="skip")
    for name, value in (("BLOCK", block), ("PIECE", piece), ("THREADS", threads), ("AHEAD", ahead)):
        monkeypatch.setattr(aliccp_rows, name, value)
    prepare(tmp_path / "raw", tmp_path / "cut", min_count=2, on_bad_line="skip")
    meta = read_meta(tmp_path / "cut")
    assert meta == read_meta(tmp_path / "as is")
    assert set(meta.dropped) == {"purchase_without_click", "common_feature"}


def test_progress_ends_once_at_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliccp_rows, "BLOCK", 700)
    mixed_raw(tmp_path / "raw")
    told: dict[str, list[tuple[int, float]]] = {}
    prepare(
        tmp_path / "raw",
        tmp_path / "out",
        on_bad_line="skip",
        report=lambda what, rows, share: told.setdefault(what, []).append((rows, share)),
    )
    assert list(told) == [
        "reading common_features_train.csv",
        "reading sample_skeleton_train.csv",
        "writing train and valid",
        "reading common_features_test.csv",
        "reading sample_skeleton_test.csv",
    ]
    for steps in told.values():
        assert steps == sorted(steps)
        assert [share for _, share in steps].index(1.0) == len(steps) - 1
    assert told["reading sample_skeleton_train.csv"][-1][0] == 300


TOKENS = [
    b"\x01",
    b"\x02",
    b"\x03",
    b",",
    b"\n",
    b"0",
    b"1",
    b"2",
    b"9999999999",
    b"2147483647",
    b"205",
    b"101",
    b"853",
    b"x",
    b"\x00",
    b"\xff",
    "é".encode(),
]
SOUP = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=40).map(b"".join)
FEATURE = st.tuples(
    st.sampled_from([b"205", b"101", b"853", b"210", b"1010", b"05"]), st.sampled_from([b"7", b"08", b"2147483646", b"x", b""])
).map(lambda f: b"\x02".join(f) + b"\x031")
RIGHT = st.lists(FEATURE, max_size=4).map(lambda fs: b"%d," % len(fs) + b"\x01".join(fs))


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(
        st.one_of(SOUP, RIGHT, RIGHT.map(lambda line: b"u," + line), RIGHT.map(lambda line: b"1,0,1,u," + line)),
        min_size=1,
        max_size=12,
    ),
    end=st.booleans(),
    commas=st.sampled_from([2, 5]),
)
def test_lines_are_read_as_a_slow_reading_does(lines: list[bytes], end: bool, commas: int) -> None:
    block = b"\n".join(lines) + b"\n" * end
    if not block:
        return
    expected = list(slow_lines(block, commas + 1))
    read = read_lines(block, commas)
    assert read.n == len(expected)
    assert read.bad.tolist() == [line is None for line in expected]
    assert [line for _, line in read.left_out()] == [
        line for line, right in zip(block.split(b"\n"), expected, strict=False) if right is None
    ]
    for i, line in enumerate(expected):
        if line is not None:
            assert {name: n for name, n in zip(FIELDS, read.ids[:, i].tolist(), strict=True) if n != MISSING} == line[1]
            assert line[0] == read.text[read.start[i] : read.commas[i, -1]].tobytes().split(b",")
        else:
            reason, words = explain(block.split(b"\n")[i], commas + 1, None, False)
            assert reason in ("fields", "feature", "feature_num", "id", "utf8")
            assert "cannot be read" not in words  # the way out for what nobody thought of


def test_the_shuffle_is_a_permutation_that_shuffles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliccp_spill, "BUCKET_BYTES", 20_000)
    rows = 3000
    for part in ("train", "test"):
        write_raw(tmp_path / "raw", part, {"u": []}, [(i % 2, 0, "u", [("205", i % 50)]) for i in range(rows)])
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        prepare(tmp_path / "raw", tmp_path / name, min_count=1, shuffle_seed=seed)
    orders = {name: read_all(tmp_path / name)["train"]["_row"].to_numpy() for name in ("one", "again", "other")}
    valid = read_all(tmp_path / "one")["valid"]["_row"].to_numpy()
    assert len(list((tmp_path / "raw").glob("*"))) == 4
    assert sorted([*orders["one"], *valid]) == list(range(rows))
    assert (orders["one"] == orders["again"]).all()
    assert (orders["one"] != orders["other"]).mean() > 0.99
    places = np.arange(len(orders["one"]))
    assert abs(np.corrcoef(places, orders["one"])[0, 1]) < 4 / np.sqrt(rows)
    assert np.mean(np.diff(orders["one"]) == 1) < 0.01  # neighbours are not neighbours any more
    data = read_all(tmp_path / "one")["train"]
    assert (data["click"] == data["_row"] % 2).all()
    assert (data["205"] == data["_row"] % 50 + 1).all()


@settings(max_examples=30, deadline=None)
@given(
    indices=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), min_size=1, max_size=20),
    asked=st.lists(st.binary(max_size=40), max_size=20),
    same_hash=st.booleans(),
)
def test_users_are_found_by_their_exact_index(indices: list[bytes], asked: list[bytes], same_hash: bool) -> None:
    own = aliccp_users._hash
    if same_hash:  # for the first salt: then it takes another one
        aliccp_users._hash = lambda text, start, end, salt: own(text, start, end, salt) * np.uint64(salt > 0)  # type: ignore[assignment]
    try:
        keys = Keys(np.frombuffer(b"".join(indices), np.uint8), np.array([len(i) for i in indices]))
        users = Users(keys, np.arange(len(indices), dtype=np.int32)[None])
        asked = [*asked, *indices, *(i + b"\x00" for i in indices), *(i[:-1] for i in indices), b"", b"x" * 5000]
        length = np.array([len(a) for a in asked])
        end = np.cumsum(length)
        found = users.find(padded(np.frombuffer(b"".join(asked), np.uint8)), end - length, end)
        assert all(index in users for index in indices)
        assert b"no such index" not in users
    finally:
        aliccp_users._hash = own
    last = {index: i for i, index in enumerate(indices)}
    assert found.tolist() == [last.get(a, -1) for a in asked]


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(st.lists(st.one_of(st.integers(0, 40), st.integers(0, MISSING), st.just(MISSING)), max_size=12), max_size=12),
    shift=st.sampled_from([0, 70_000, 2**31 - 100]),
    min_count=st.integers(1, 3),
    span=st.sampled_from([1 << 24, 1 << 17]),
    waiting=st.sampled_from([1, 1 << 20]),
)
def test_counts_and_numbers_are_those_of_a_dict(
    blocks: list[list[int]], shift: int, min_count: int, span: int, waiting: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "SPAN", span)
        patch.setattr(vocabulary, "WAITING", waiting)
        arrays = [np.array([min(i + shift, MISSING) for i in ids], np.int32) for ids in blocks]
        counts = Counts()
        for ids in arrays:
            counts.add(ids)
        seen = Counter(i for ids in arrays for i in ids.tolist() if i != MISSING)
        known = counts.frequent(min_count)
        assert known.tolist() == sorted(i for i, n in seen.items() if n >= min_count)
        made = Vocabulary(known)
        number = {i: place for place, i in enumerate(known.tolist(), 1)}
        asked = np.array([*seen, 0, 1, MISSING - 1, MISSING, shift], np.int32)
        assert made.encode(asked).tolist() == [number.get(i, 0) for i in asked.tolist()]
        assert made.size == len(known) + 1


def with_oracle(raw: Path, rows: dict[str, int], first: int = 0) -> None:
    for part, n in rows.items():
        row = np.arange(first, first + n)
        pl.DataFrame({"_row": row, "click": row / 1000, "purchase": row / 2000}).write_parquet(raw / f"oracle_{part}.parquet")


def test_the_truth_comes_along_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliccp_rows, "BLOCK", 700)
    monkeypatch.setattr("seqmtl.prepare.truth.BATCH", 17)
    mixed_raw(tmp_path / "raw")
    with_oracle(tmp_path / "raw", {"train": 300, "test": 300})
    prepare(tmp_path / "raw", tmp_path / "out", min_count=1, on_bad_line="skip")
    for split, data in read_all(tmp_path / "out").items():
        truth = pl.read_parquet(tmp_path / "out" / "oracle" / f"{split}.parquet")
        assert truth["_row"].to_list() == data["_row"].to_list()
        row = truth["_row"].to_numpy()
        assert (truth["click"].to_numpy() == row / 1000).all()
        assert (truth["purchase"].to_numpy() == row / 2000).all()


@pytest.mark.parametrize(("rows", "first"), [(299, 0), (301, 0), (300, 1), (0, 0)])
def test_a_truth_of_other_rows_is_refused(tmp_path: Path, rows: int, first: int) -> None:
    mixed_raw(tmp_path / "raw")
    with_oracle(tmp_path / "raw", {"train": rows, "test": 300}, first)
    with pytest.raises(SeqmtlError, match=r"oracle_train.parquet does not hold the rows of the raw file"):
        prepare(tmp_path / "raw", tmp_path / "out", on_bad_line="skip")


def test_a_truth_that_cannot_be_read(tmp_path: Path) -> None:
    small_raw(tmp_path / "raw")
    (tmp_path / "raw" / "oracle_train.parquet").write_bytes(b"no parquet")
    with pytest.raises(SeqmtlError, match=r"oracle_train.parquet cannot be read"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_a_small_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_raw(tmp_path / "raw")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    with pytest.raises(SeqmtlError, match=r"needs about 0.0 GB on the disk of .*out, but only 0.0 GB are free; make room there"):
        prepare(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


REAL = {"rows": 40, "clicks": 10, "purchases": 5, "purchases without a click": 0}


@pytest.mark.parametrize(
    ("train", "test", "sizes", "words"),
    [
        ({}, 40, {}, None),
        ({"rows": 41, "clicks": 9}, 40, {}, None),  # another file: nothing is known of it
        ({"clicks": 9}, 40, {}, r"sample_skeleton_train.csv is taken for the real file .* has 9 clicks, but 10 clicks were found"),
        ({"purchases": 6}, 40, {}, "has 6 purchases, but 5"),
        ({"purchases without a click": 1}, 40, {}, "has 1 purchases without a click, but 0"),
        ({}, 39, {}, r"sample_skeleton_test.csv is .* has 39 rows, but 40"),
        ({}, 40, {"205": 5}, "has 5 ids of field 205, but 6"),
    ],
)
def test_known_counts_of_the_real_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: dict[str, int], test: int, sizes: dict[str, int], words: str | None
) -> None:
    small_raw(tmp_path / "raw")
    monkeypatch.setattr(aliccp_real, "TRAIN", REAL | train)
    monkeypatch.setattr(aliccp_real, "TEST", {"rows": test})
    monkeypatch.setattr(aliccp_real, "MIN_COUNT", 1)
    monkeypatch.setattr(aliccp_real, "SIZES", {"101": 3, "205": 6, "301": 2} | sizes)
    if words is None:
        prepare(tmp_path / "raw", tmp_path / "out", min_count=1)
        return
    with pytest.raises(SeqmtlError, match=f"{words}.*The copy is damaged"):
        prepare(tmp_path / "raw", tmp_path / "out", min_count=1)
    assert not (tmp_path / "out" / "meta.json").exists()


def test_the_known_vocabularies_are_those_of_the_table() -> None:
    assert tuple(aliccp_real.SIZES) == FIELDS
    assert sum(aliccp_real.SIZES.values()) == 1_283_090
