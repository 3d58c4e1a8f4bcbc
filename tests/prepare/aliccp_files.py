"""Raw files of Ali-CCP, written by hand, and a slow reading of them, for the tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.prepare.aliccp_line import FIELDS

Pairs = list[tuple[str, int]]


def features(pairs: Pairs, value: str = "1.0") -> str:
    return "\x01".join(f"{name}\x02{number}\x03{value}" for name, number in pairs)


def common_line(index: str, pairs: Pairs) -> str:
    return f"{index},{len(pairs)},{features(pairs)}\n"


def row_line(sample: int, click: int, purchase: int, index: str, pairs: Pairs) -> str:
    return f"{sample},{click},{purchase},{index},{len(pairs)},{features(pairs)}\n"


def write_raw(raw: Path, split: str, common: dict[str, Pairs], rows: list[tuple[int, int, str, Pairs]]) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    text = "".join(common_line(index, pairs) for index, pairs in common.items())
    (raw / f"common_features_{split}.csv").write_text(text)
    text = "".join(row_line(i + 1, *row) for i, row in enumerate(rows))
    (raw / f"sample_skeleton_{split}.csv").write_text(text)


def read_split(directory: Path, split: str) -> pl.DataFrame:
    return pl.read_parquet(sorted((directory / split).glob("*.parquet")))


def read_all(directory: Path) -> dict[str, pl.DataFrame]:
    return {split: read_split(directory, split) for split in SPLITS}


def small_raw(raw: Path) -> None:
    """Forty right rows in each part, two users."""
    common: dict[str, Pairs] = {"a": [("101", 7), ("109_14", 3)], "b": [("101", 8)]}
    rows: list[tuple[int, int, str, Pairs]] = [
        (int(i % 4 == 0), int(i % 8 == 0), "ab"[i % 2], [("205", 100 + i % 5), ("301", 1)]) for i in range(40)
    ]
    for split in ("train", "test"):
        write_raw(raw, split, common, rows)


Features = dict[str, Any]  # a raw id, or a list of them
Row = dict[str, Any]
BadLine = tuple[str, int]  # file, number of the line from 1

PARTS = ("train", "test")
FORM = re.compile(rb"[^\x01-\x03]*\x02[^\x01-\x03]*\x03[^\x01-\x03]*", re.DOTALL)


def slow_features(text: bytes, n: bytes, bags: Sequence[str]) -> Features:
    """Raw ids by field, the last of each, and all of a bag; AssertionError if anything is wrong."""
    features = text.split(b"\x01") if text else []
    assert n.isdigit()
    assert len(n) <= 10
    assert int(n) == len(features)
    ids: Features = {}
    for feature in features:
        assert FORM.fullmatch(feature)
        name, number, _ = re.split(b"[\x02\x03]", feature)
        if name.decode() in (*FIELDS, *bags):
            assert number.isdigit()
            assert len(number) <= 10
            assert int(number) < 2**31 - 1
            before = ids.get(name.decode(), [])
            ids[name.decode()] = [*before, int(number)] if name.decode() in bags else int(number)
    return ids


def slow_lines(data: bytes, n_fields: int, bags: Sequence[str] = ()) -> Iterator[tuple[list[bytes], Features] | None]:
    """Fields and features of each line; None for one that is bad."""
    lines = data.split(b"\n")
    for line in lines if lines[-1] else lines[:-1]:
        try:
            line.decode()
            *fields, text = line.split(b",")
            assert len(fields) == n_fields - 1
            assert not re.search(b"[\x01-\x03]", b",".join(fields))
            yield fields, slow_features(text, fields[-1], bags)
        except (AssertionError, UnicodeDecodeError):
            yield None


def slow_part(raw: Path, part: str, bags: Sequence[str]) -> tuple[list[Row], list[BadLine], int]:
    """The kept rows of a part with raw ids, the bad lines, and how many rows have a purchase and no click."""
    users: dict[bytes, Features] = {}
    rows, bad, impossible = [], [], 0
    name = f"common_features_{part}.csv"
    for number, line in enumerate(slow_lines((raw / name).read_bytes(), 3, bags), 1):
        if line is None:
            bad.append((name, number))
        else:
            users[line[0][0]] = line[1]
    name = f"sample_skeleton_{part}.csv"
    for number, line in enumerate(slow_lines((raw / name).read_bytes(), 6, bags), 1):
        if line is None or not {line[0][1], line[0][2]} <= {b"0", b"1"} or line[0][3] not in users:
            bad.append((name, number))
        elif (line[0][1], line[0][2]) == (b"0", b"1"):
            impossible += 1
        else:
            (_, click, purchase, index, _), own = line
            whose = {name: index if name in users[index] else number for name in bags}  # the user, or the row itself
            labels = {"click": int(click), "purchase": int(purchase), "_row": number - 1}
            rows.append({**own, **users[index], **labels, "whose": whose})
    return rows, bad, impossible


def numbered(seen: Counter[int], min_count: int) -> dict[int, int]:
    return {v: i + 1 for i, v in enumerate(sorted(v for v, n in seen.items() if n >= min_count))}


def slow(
    raw: Path, min_count: int, draw: Callable[[], float], share: float, bags: Sequence[str] = ()
) -> tuple[dict[str, list[Row]], dict[str, int], list[BadLine], int]:
    """What the converter shall make of raw files, with a dict for each row: rows by split, sizes, bad lines, impossible rows."""
    (kept, bad, impossible), (test, bad_test, impossible_test) = (slow_part(raw, part, bags) for part in PARTS)
    number = {}
    for name in FIELDS:
        seen = Counter(row[name] for row in kept if name in row)
        number[name] = numbered(seen, min_count)
    for name in bags:
        once = {row["whose"][name]: row.get(name, []) for row in kept}  # of a user, however many rows there are
        number[name] = numbered(Counter(v for ids in once.values() for v in ids), min_count)
    splits: dict[str, list[Row]] = {"train": [], "valid": [], "test": test}
    for row in kept:
        splits["valid" if draw() >= 1 - share else "train"].append(row)
    for split, rows in splits.items():
        labels = ("click", "purchase", "_row")
        splits[split] = [
            {f: number[f].get(r.get(f, -1), 0) for f in FIELDS}
            | {k: r[k] for k in labels}
            | {f: [number[f].get(v, 0) for v in r.get(f, [])] for f in bags}
            for r in rows
        ]
    return splits, {name: len(ids) + 1 for name, ids in number.items()}, bad + bad_test, impossible + impossible_test


def by_row(rows: list[Row]) -> list[Row]:
    return sorted(({name: row[name] for name in sorted(row)} for row in rows), key=lambda row: row["_row"])


def with_bags(directory: Path, rows: list[Row], bags: Sequence[str]) -> list[Row]:
    """Rows of the shards with the ids of their bags in place of where these lie."""
    for name in bags:
        flat = np.load(directory / "bags" / f"{name}.npy").tolist()
        for row in rows:
            end, length = row.pop(f"{name}_end"), row.pop(f"{name}_len")
            row[name] = flat[end - length : end]
    return rows


def assert_equals_slow(directory: Path, splits: dict[str, list[Row]], sizes: dict[str, int], bags: Sequence[str] = ()) -> None:
    """The dataset holds these rows: training in any order, the others in that of the file."""
    made = {split: with_bags(directory, frame.to_dicts(), bags) for split, frame in read_all(directory).items()}
    assert by_row(made["train"]) == by_row(splits["train"])
    for split in ("valid", "test"):
        assert [by_row([row]) for row in made[split]] == [by_row([row]) for row in splits[split]]
    meta = read_meta(directory)
    assert meta.fields | {name: bag["size"] for name, bag in meta.bags.items()} == sizes


__all__ = [
    "FIELDS",
    "PARTS",
    "assert_equals_slow",
    "common_line",
    "features",
    "read_all",
    "read_split",
    "row_line",
    "slow",
    "slow_lines",
    "small_raw",
    "write_raw",
]
