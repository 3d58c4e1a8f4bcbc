"""A small log; what a converter must make of it, worked out row by row in plain Python; and what it made, read back likewise."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from seqmtl.data.meta import SPLITS

Row = dict[str, Any]

FIELDS = ["user", "item", "city", "hour"]
PARENTS = {"watch": None, "click": "watch", "entering": "watch", "conversion": "entering"}
BEHAVIOURS = {"watch": ("watch", 1), "non_click": ("click", 0), "entering": ("entering", 1)}
HISTORIES = {name: f"{task}={label}" for name, (task, label) in BEHAVIOURS.items()}
OPTIONS: dict[str, Any] = {"fields": FIELDS, "parents": PARENTS, "user": "user", "item": "item", "histories": HISTORIES}


def impression(rng: random.Random) -> Row:
    watch = rng.random() < 0.6
    entering = watch and rng.random() < 0.5
    return {
        "time": 1,
        "user": rng.choice([*range(6), None]),
        "item": rng.choice([3, 100, 20, -4, 5_000_000_000]),
        "city": rng.choice(["Oslo", "Åbo", "a,b", 'x"y', "", None]),
        "hour": rng.choice([0, 9, 10, 23]),
        "watch": int(watch),
        "click": int(watch and rng.random() < 0.3),
        "entering": int(entering),
        "conversion": int(entering and rng.random() < 0.5),
    }


def log(n: int, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    return [impression(rng) for _ in range(n)]


def write(raw: Path, rows: list[Row], kind: str = "parquet", files: int = 2) -> Path:
    raw.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, schema={name: pl.String if name == "city" else pl.Int64 for name in rows[0]})
    edges = np.linspace(0, len(rows), files + 1).astype(int)
    for i, (start, stop) in enumerate(pairwise(edges)):
        path = raw / f"log-{i:05d}.{kind}"
        frame[start:stop].write_parquet(path) if kind == "parquet" else frame[start:stop].write_csv(path)
    return raw


def time_split(rows: Sequence[Row], valid: float, test: float) -> list[str]:
    n = len(rows)
    return tail(n, valid, test)


def tail(n: int, valid: float, test: float) -> list[str]:
    n_test, n_valid = math.floor(n * test + 0.5), math.floor(n * valid + 0.5)
    return ["test" if i >= n - n_test else "valid" if i >= n - n_test - n_valid else "train" for i in range(n)]


def user_tail(rows: Sequence[Row], user: str, valid: float, test: float) -> list[str]:
    n = Counter(row[user] for row in rows)
    seen: Counter[Any] = Counter()
    splits = []
    for row in rows:
        splits.append(tail(n[row[user]], valid, test)[seen[row[user]]])
        seen[row[user]] += 1
    return splits


def history(rows: Sequence[Row], j: int, user: str, item: str, task: str, label: int, window: int | None = None) -> list[Any]:
    """The items of all earlier rows of the row's user, looked at one by one."""
    if rows[j][user] in (None, ""):
        return []
    mine = [i for i in range(j) if rows[i][user] == rows[j][user]]
    if window is not None:
        mine = mine[-window:]
    return [rows[i][item] for i in mine if rows[i][task] == label]


def vocabulary(values: Sequence[Any], min_count: int) -> dict[Any, int]:
    counts = Counter(v for v in values if v not in (None, ""))
    return {v: i + 1 for i, v in enumerate(sorted(v for v, n in counts.items() if n >= min_count))}


def expected(
    rows: Sequence[Row],
    splits: Sequence[str],
    fields: Sequence[str],
    tasks: Sequence[str],
    past: Mapping[str, Callable[[int], list[Any]]],
    item: str | None,
    min_count: int,
) -> tuple[dict[int, Row], dict[str, int]]:
    """{number of the row: ids, labels, split, histories as ids}, and the sizes of the fields."""
    known = {f: vocabulary([r[f] for r, s in zip(rows, splits, strict=True) if s == "train"], min_count) for f in fields}
    made = {}
    for j, (row, split) in enumerate(zip(rows, splits, strict=True)):
        made[j] = {"split": split, **{f: known[f].get(row[f], 0) for f in fields}, **{t: row[t] for t in tasks}}
        made[j] |= {f"past_{name}": [known[str(item)].get(v, 0) for v in of_row(j)] for name, of_row in past.items()}
    return made, {f: len(known[f]) + 1 for f in fields}


def converted(directory: Path, histories: Sequence[str] = ()) -> dict[int, Row]:
    """The rows of a dataset by the number of the raw row, in the order of the shards."""
    flat = {name: np.load(directory / "histories" / f"{name}.npy") for name in histories}
    made = {}
    for split in SPLITS:
        frame = pl.read_parquet(sorted((directory / split).glob("*.parquet")))
        for row in frame.iter_rows(named=True):
            number = row.pop("_row")
            assert number not in made
            for name, ids in flat.items():
                end, length = row.pop(f"{name}_end"), row.pop(f"{name}_len")
                row[f"past_{name}"] = ids[end - length : end].tolist()
            made[number] = {"split": split, **row}
    return made
