"""Multi-valued fields of Ali-CCP against the slow reference, on right and on damaged files."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from aliccp_files import (
    Pairs,
    assert_equals_slow,
    common_line,
    slow,
    slow_lines,
    write_raw,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aliccp_fuzz import NAMES, base, damaged

from seqmtl.errors import SeqmtlError
from seqmtl.prepare import aliccp_bags
from seqmtl.prepare.aliccp import prepare
from seqmtl.prepare.aliccp_line import BAGS, explain
from seqmtl.prepare.aliccp_tokens import read_lines

Raw = tuple[dict[str, Pairs], list[tuple[int, int, str, Pairs]]]

pairs = st.lists(st.tuples(st.sampled_from(["101", "205", *BAGS]), st.integers(0, 6)), max_size=9)


@st.composite
def part(draw: st.DrawFn) -> Raw:
    common = {index: draw(pairs) for index in ("u", "v", "w", "x")}
    row = st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from(sorted(common)), pairs)
    return common, draw(st.lists(row, min_size=4, max_size=20))


def equals_slow(train: Raw, test: Raw, bags: list[str], min_count: int, seed: int, piece: int, twice: bool) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(aliccp_bags, "PIECE", piece)
        raw, out = Path(name) / "raw", Path(name) / "out"
        for part_name, (common, rows) in (("train", train), ("test", test)):
            write_raw(raw, part_name, common, rows)
        if twice:  # an index that repeats: the last line is the user's, the first one counts nothing
            path = raw / "common_features_train.csv"
            path.write_text(common_line("u", [("109_14", 2), ("109_14", 3), ("210", 2)] * 2) + path.read_text())
        splits, sizes, _, _ = slow(raw, min_count, np.random.default_rng(seed).random, 0.3, bags)
        options: dict[str, Any] = {"min_count": min_count, "split": "random", "split_seed": seed, "valid_share": 0.3, "bags": bags}
        if not all(splits.values()):
            with pytest.raises(SeqmtlError, match="would have no rows"):
                prepare(raw, out, **options)
            return
        prepare(raw, out, **options)
        assert_equals_slow(out, splits, sizes, bags)


anything = given(
    train=part(),
    test=part(),
    bags=st.lists(st.sampled_from(BAGS), min_size=1, max_size=5, unique=True),
    min_count=st.integers(1, 4),
    seed=st.integers(0, 9),
    piece=st.sampled_from([1, 3, 1 << 20]),
    twice=st.booleans(),
)


@settings(max_examples=10, deadline=None)
@anything
def test_converter_equals_a_slow_reference(**case: Any) -> None:
    equals_slow(**case)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@anything
def test_converter_equals_a_slow_reference_often(**case: Any) -> None:
    equals_slow(**case)


FEATURE = st.tuples(
    st.sampled_from(["210", "109_14", "150_14", "9109_14", "09_14", "1210", "10", "109_1", "x", "\x00210", "205"]).map(str.encode),
    st.sampled_from([b"7", b"08", b"2147483646", b"2147483647", b"x", b""]),
).map(lambda f: b"\x02".join(f) + b"\x031")
LINE = st.lists(FEATURE, max_size=5).map(lambda fs: b"%d," % len(fs) + b"\x01".join(fs))
SOUP = st.lists(st.sampled_from([b"\x01", b"\x02", b"\x03", b",", b"0", b"1", b"210", b"109_14", b"\xff"]), max_size=20).map(
    b"".join
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(SOUP, LINE.map(lambda line: b"u," + line)), min_size=1, max_size=8))
def test_lists_are_read_as_a_slow_reading_does(lines: list[bytes]) -> None:
    block = b"\n".join(lines) + b"\n"
    names = ("109_14", "210")
    expected = list(slow_lines(block, 3, names))
    read = read_lines(block, 2, names)
    assert read.bad.tolist() == [line is None for line in expected]
    right = np.flatnonzero(~read.bad)
    for name in names:
        bag = read.bags[name].of_lines(right)
        ids = np.split(bag.ids, np.cumsum(bag.length)[:-1]) if len(right) else []
        assert [i.tolist() for i in ids] == [line[1].get(name, []) for line in expected if line is not None]
    for line, slowly in zip(lines, expected, strict=True):
        if slowly is None:
            assert "cannot be read" not in explain(line, 3, None, False, names)[1]


def check(directory: Path, seed: int) -> None:
    """A damaged file ends in the error that the slow reading names first, or in the rows and the bags that it reads."""
    rng = random.Random(seed)
    raw, out, stopped = (directory / f"{what}{seed}" for what in ("raw", "skipped", "stopped"))
    base(raw, rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        path = raw / rng.choice(NAMES)
        path.write_bytes((path.stat().st_size and damaged(path.read_bytes(), rng)) or b"")
    bags = ["109_14", "210"]
    options: dict[str, Any] = {"min_count": 2, "split": "random", "valid_share": 0.4, "split_seed": seed, "bags": bags}
    splits, sizes, bad, _ = slow(raw, 2, np.random.default_rng(seed).random, 0.4, bags)
    if not all((raw / name).stat().st_size for name in NAMES) or not all(splits.values()):
        with pytest.raises(SeqmtlError, match=r"is empty|split would have no rows"):
            prepare(raw, out, on_bad_line="skip", **options)
        assert not (out / "meta.json").exists()
        return
    prepare(raw, out, on_bad_line="skip", **options)
    assert_equals_slow(out, splits, sizes, bags)
    if bad:
        with pytest.raises(SeqmtlError, match=f"{bad[0][0]}, line {bad[0][1]}: "):
            prepare(raw, stopped, **options)
        assert not (stopped / "meta.json").exists()
        assert not (stopped / ".spill").exists()


@pytest.mark.parametrize("seed", range(0, 20, 5))
def test_damaged_files(tmp_path: Path, seed: int) -> None:
    for i in range(seed, seed + 5):
        check(tmp_path, i)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 1100, 100))
def test_many_damaged_files(tmp_path: Path, seed: int) -> None:
    for i in range(seed, seed + 100):
        check(tmp_path, i)
