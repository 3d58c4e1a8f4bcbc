"""Raw files of Ali-CCP, written by hand, for the tests."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from seqmtl.data.meta import SPLITS
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


__all__ = ["FIELDS", "common_line", "features", "read_all", "read_split", "row_line", "small_raw", "write_raw"]
