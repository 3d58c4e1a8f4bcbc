"""Parts of the converter: blocks and threads, users, counts, the shuffle, the truth of a simulation, the disk, the real file."""

from __future__ import annotations

import random
import shutil
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from aliccp_files import FIELDS, Pairs, read_all, small_raw, write_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import aliccp_ids, aliccp_real, aliccp_rows, aliccp_spill, aliccp_users
from seqmtl.prepare.aliccp import prepare
from seqmtl.prepare.aliccp_ids import Counts, Vocabulary
from seqmtl.prepare.aliccp_line import MISSING
from seqmtl.prepare.aliccp_users import Keys, Users, padded


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
        patch.setattr(aliccp_ids, "SPAN", span)
        patch.setattr(aliccp_ids, "WAITING", waiting)
        arrays = [np.array([min(i + shift, MISSING) for i in ids], np.int32) for ids in blocks]
        counts = Counts()
        for ids in arrays:
            counts.add(ids)
        seen = Counter(i for ids in arrays for i in ids.tolist() if i != MISSING)
        known = counts.frequent(min_count)
        assert known.tolist() == sorted(i for i, n in seen.items() if n >= min_count)
        vocabulary = Vocabulary(known)
        number = {i: place for place, i in enumerate(known.tolist(), 1)}
        asked = np.array([*seen, 0, 1, MISSING - 1, MISSING, shift], np.int32)
        assert vocabulary.encode(asked).tolist() == [number.get(i, 0) for i in asked.tolist()]
        assert vocabulary.size == len(known) + 1


def with_oracle(raw: Path, rows: dict[str, int], first: int = 0) -> None:
    for part, n in rows.items():
        row = np.arange(first, first + n)
        pl.DataFrame({"_row": row, "click": row / 1000, "purchase": row / 2000}).write_parquet(raw / f"oracle_{part}.parquet")


def test_the_truth_comes_along_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliccp_rows, "BLOCK", 700)
    monkeypatch.setattr("seqmtl.prepare.aliccp_truth.BATCH", 17)
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
    with pytest.raises(SeqmtlError, match=r"oracle_train.parquet does not hold the rows of the skeleton"):
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
