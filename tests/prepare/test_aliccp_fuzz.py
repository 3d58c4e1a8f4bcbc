"""Damaged raw files: each ends in an error with file and line, or in rows left out that a slow reading agrees with."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from aliccp_files import PARTS, Pairs, assert_equals_slow, slow, write_raw

from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.aliccp import prepare

NAMES = [f"{kind}_{part}.csv" for part in PARTS for kind in ("common_features", "sample_skeleton")]  # in the order of reading
FIELDS = ["101", "121", "205", "206", "853", "301", "210", "109_14"]
INSERTS = [
    b"\x01",
    b"\x02",
    b"\x03",
    b",",
    b"\n",
    b"\r\n",
    b"\x00",
    b"\t",
    b"\xff",
    b"\xc3\xa9",
    b"\xe9",
    b"0",
    b"-",
    b" ",
    b"9" * 12,
]
IDS = [b"2147483646", b"2147483647", b"4294967296", b"9999999999", b"99999999999999999999", b"0", b"00", b"", b"+1", b"1e3", b"1_0"]


def base(raw: Path, rng: random.Random) -> None:
    for part in PARTS:
        common: dict[str, Pairs] = {}
        for i in range(5):
            common["u" * (1 + 3 * i)] = [(name, rng.randrange(4)) for name in rng.choices(FIELDS, k=rng.randrange(6))]
        rows = []
        for i in range(40):
            pairs = [(name, rng.randrange(6)) for name in rng.choices(FIELDS, k=rng.randrange(8))]
            rows.append((int(i % 3 == 0), int(i % 6 == 0 or i % 20 == 1), rng.choice(sorted(common)), pairs))
        write_raw(raw, part, common, rows)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The file with one thing wrong."""
    kind = rng.choice(["flip", "insert", "cut out", "cut off", "double", "id", "line", "encoding", "swap", "empty"])
    at = rng.randrange(len(data))
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == "insert":
        return data[:at] + rng.choice(INSERTS) + data[at:]
    if kind == "cut out":
        return data[:at] + data[at + rng.randrange(1, 40) :]
    if kind == "cut off":
        return data[:at]
    if kind == "double":
        features = data.split(b"\x01")
        i = rng.randrange(len(features))
        return b"\x01".join([*features[: i + 1], *features[i:]])
    if kind == "id":
        ids = [*re.finditer(rb"\x02[0-9]*\x03", data)]
        found = rng.choice(ids)
        return data[: found.start() + 1] + rng.choice(IDS) + data[found.end() - 1 :]
    if kind == "line":
        lines.insert(number, rng.choice([b"", lines[number], b",,,,,", b"0,0,0,u,0,", b"x" * 300, b"\x01" * 9]))
    elif kind == "encoding":
        lines[number] = lines[number].decode("latin1").encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[number], lines[other] = lines[number][: at % 50] + lines[other], lines[other][: at % 50]
    elif rng.random() < 0.2:
        return b""
    return b"\n".join(lines)


def check(directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    raw = directory / f"raw{seed}"
    base(raw, rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        path = raw / rng.choice(NAMES)
        path.write_bytes(damaged(path.read_bytes(), rng) if path.stat().st_size else b"")
    options = {"min_count": 2, "split": "random", "valid_share": 0.4, "split_seed": seed}
    splits, sizes, bad, impossible = slow(raw, 2, np.random.default_rng(seed).random, 0.4)

    skipped, stopped = directory / f"skipped{seed}", directory / f"stopped{seed}"
    empty = next((name for name in NAMES if not (raw / name).stat().st_size), None)
    if empty or not all(splits.values()):
        with pytest.raises(SeqmtlError, match=f"{empty} is empty" if empty else "split would have no rows"):
            prepare(raw, skipped, on_bad_line="skip", **options)  # type: ignore[arg-type]
        assert not (skipped / "meta.json").exists()
        assert not (skipped / ".spill").exists()
        return
    prepare(raw, skipped, on_bad_line="skip", **options)  # type: ignore[arg-type]
    assert_equals_slow(skipped, splits, sizes)
    dropped = read_meta(skipped).dropped
    assert dropped.pop("purchase_without_click", 0) == impossible
    assert sum(dropped.values()) == len(bad)
    if bad:
        name, number = bad[0]
        with pytest.raises(SeqmtlError, match=f"{name}, line {number}: "):
            prepare(raw, stopped, **options)  # type: ignore[arg-type]
        assert not (stopped / "meta.json").exists()
        assert not (stopped / ".spill").exists()


@pytest.mark.parametrize("seed", range(0, 100, 25))
def test_damaged_files(tmp_path: Path, seed: int) -> None:
    for i in range(seed, seed + 10):
        check(tmp_path, i)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 2000, 100))
def test_many_damaged_files(tmp_path: Path, seed: int) -> None:
    for i in range(seed, seed + 100):
        check(tmp_path, i)
