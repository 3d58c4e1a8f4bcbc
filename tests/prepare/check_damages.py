"""A dataset with all that there can be, ways to damage it, and what the check must say of each."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from conftest import FIELDS, PARENTS, write_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.check import check

ITEMS = 50
CONFIG: dict[str, Any] = {
    "name": "mine",
    "about": "Written by hand.",
    "tasks": ["click", "purchase"],
    "fields": None,
    "prepare": {},
}
TYPES = dict.fromkeys(FIELDS, pl.Int32) | dict.fromkeys(PARENTS, pl.Int8) | {"_row": pl.Int64}


def write_whole(directory: Path) -> Path:
    """A dataset with all there can be: a history, a multi-valued field, the truth, counts."""
    write_dataset(directory)
    rng = np.random.default_rng(1)
    positives, shards, start = {}, {}, 0
    for split in ("train", "valid", "test"):
        frames = []
        for path in sorted((directory / split).glob("*.parquet")):
            frame = pl.read_parquet(path).cast(TYPES)  # type: ignore[arg-type]
            n = len(frame)
            for name in ("past", "words"):
                end = rng.integers(0, ITEMS + 1, n)
                length = rng.integers(0, end + 1)
                frame = frame.with_columns(pl.Series(f"{name}_end", end), pl.Series(f"{name}_len", length, pl.Int32))
            frame = frame.with_columns(_row=pl.int_range(start, start + n))  # of one log
            frame.write_parquet(path)
            start += n
            frames.append(frame)
            shards[f"{split}/{path.name}"] = {"rows": n, "bytes": path.stat().st_size}
        rows = pl.concat(frames)
        positives[split] = {task: int(rows[task].sum()) for task in PARENTS}
        (directory / "oracle").mkdir(exist_ok=True)
        truth = rows.select("_row", click=pl.lit(0.5), purchase=pl.lit(0.2))
        truth.write_parquet(directory / "oracle" / f"{split}.parquet")
    for folder, name in (("histories", "past"), ("bags", "words")):
        (directory / folder).mkdir()
        np.save(directory / folder / f"{name}.npy", rng.integers(0, 30, ITEMS, np.int32))
    more = {"histories": {"past": {"field": "item", "items": ITEMS}}, "bags": {"words": {"size": 30, "items": ITEMS}}}
    edit_meta(directory, positives=positives, shards=shards, **more)
    return directory


def edit_meta(directory: Path, **changes: Any) -> None:
    path = directory / "meta.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not ...}))


def meta_of(directory: Path) -> Any:
    return json.loads((directory / "meta.json").read_text())


def edit(directory: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame], **options: Any) -> None:
    """Changes a shard, and its size in meta.json, so that only the change is wrong."""
    frame = change(pl.read_parquet(directory / name))
    frame.write_parquet(directory / name, **options)
    shards = meta_of(directory)["shards"]
    if name in shards:
        shards[name] |= {"bytes": (directory / name).stat().st_size}
        edit_meta(directory, shards=shards)


def put(column: str, row: int, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value, frame[column].dtype)).otherwise(column).alias(column)
    )


def said(directory: Path, **changes: Any) -> tuple[str, str]:
    """What is printed, and the last line."""
    out = io.StringIO()
    try:
        last = check(Console(file=out, width=200), CONFIG | changes, directory)
    except SeqmtlError as e:
        last = str(e)
    return out.getvalue(), last


def lines(printed: str, head: str = "error") -> list[str]:
    return [line.removeprefix(f"{head}: ") for line in printed.splitlines() if line.startswith(f"{head}: ")]


def state(directory: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in sorted(directory.rglob("*"))}


def swap_rows(frame: pl.DataFrame) -> pl.DataFrame:
    return frame[[1, 0, *range(2, len(frame))]]


T0, V1 = "train/000.parquet", "valid/001.parquet"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "version": (lambda d: edit_meta(d, version=2), "meta.json: version is 2; this seqmtl reads version 1"),
    "outcome": (
        lambda d: edit_meta(d, fields=FIELDS | {"is_like": 3}),
        "meta.json: fields: 'is_like' happens after the impression",
    ),
    "label": (lambda d: edit_meta(d, fields=FIELDS | {"click": 3}), "meta.json: fields: 'click' is a label"),
    "parent": (
        lambda d: edit_meta(d, parents={"click": "buy", "purchase": "click"}),
        "meta.json: parents: the parent 'buy' of 'click'",
    ),
    "positives": (lambda d: edit_meta(d, positives={"train": {"click": 3}}), "meta.json: positives: 'train' must be one of"),
    "history of no field": (
        lambda d: edit_meta(d, histories={"past": {"field": "shop", "items": ITEMS}}),
        "meta.json: histories: 'past' is of the field 'shop', which is none of user, item, hour",
    ),
    "twice": (
        lambda d: (d / "meta.json").write_text(
            (d / "meta.json").read_text()[:-1] + ', "rows": {"train": 600, "valid": 200, "test": 300}}'
        ),
        "meta.json: 'rows' stands twice in one object",
    ),
    "no shard": (lambda d: (d / T0).unlink(), f"files: {T0} is in meta.json, but not there"),
    "truncated": (lambda d: (d / T0).write_bytes((d / T0).read_bytes()[:-9]), f"files: {T0} is damaged or truncated"),
    "no split": (lambda d: (shutil.rmtree(d / "test"), edit_meta(d, shards={})), "files: test/*.parquet: there are no shards"),
    "unnamed": (
        lambda d: shutil.copy(d / T0, d / "train" / "002.parquet"),
        "files: train/002.parquet is not read: meta.json names other",
    ),
    "nested": (
        lambda d: (edit_meta(d, shards={}), shutil.copytree(d / "train", d / "train" / "day=1")),
        "files: train/day=1/000.parquet is not read: it lies in a folder of its own",
    ),
    "unnamed array": (
        lambda d: shutil.copy(d / "bags/words.npy", d / "histories"),
        "files: histories/words.npy is not read: meta.json names no",
    ),
    "bytes": (
        lambda d: edit_meta(d, shards=meta_of(d)["shards"] | {T0: {"rows": 300, "bytes": 7}}),
        "bytes, not the 7 of meta.json",
    ),
    "shard's rows": (lambda d: edit(d, T0, lambda f: f[:-1]), f"files: {T0} has 299 rows, not the 300 of meta.json"),
    "split's rows": (
        lambda d: edit_meta(d, rows={"train": 600, "valid": 201, "test": 300}),
        "rows: valid has 200 rows, not the 201 of meta.json",
    ),
    "no column": (lambda d: edit(d, T0, lambda f: f.drop("hour")), f"columns: there is no column 'hour' (int32): {T0}"),
    "string": (
        lambda d: edit(d, T0, lambda f: f.cast({"hour": pl.String})),
        "columns: column 'hour' is large_string and must be int32",
    ),
    "float label": (
        lambda d: edit(d, T0, lambda f: f.cast({"click": pl.Float32})),
        "columns: column 'click' is float and must be int8",
    ),
    "null": (lambda d: edit(d, T0, put("user", 7, None)), f"values: train: column 'user' is null: row 7 of {T0}"),
    "id": (lambda d: edit(d, V1, put("item", 3, 30)), f"values: valid: ids of 'item' are outside of 0..29: row 3 of {V1}, with 30"),
    "negative id": (lambda d: edit(d, V1, put("item", 3, -1)), "row 3 of valid/001.parquet, with -1"),
    "label of 2": (lambda d: edit(d, T0, put("click", 0, 2)), "values: train: labels of 'click' are outside of 0..1: "),
    "order": (
        lambda d: edit(d, T0, lambda f: f.with_columns(purchase=pl.lit(1, pl.Int8))),
        "labels: train: purchase happens without click, its parent:",
    ),
    "counts": (
        lambda d: edit_meta(d, positives=meta_of(d)["positives"] | {"test": {"click": 1, "purchase": 1}}),
        "positives, not the 1 of meta.json",
    ),
    "negative _row": (
        lambda d: edit(d, T0, put("_row", 5, -4)),
        "values: train: values of '_row' are outside of 0..9223372036854775806: row 5",
    ),
    "_row twice": (lambda d: edit(d, T0, put("_row", 5, 400)), "_row: train: 1 row has a number that an earlier row has"),
    "leak": (
        lambda d: (
            shutil.copy(d / T0, d / "test/000.parquet"),
            edit_meta(d, shards={}, positives={}, rows=meta_of(d)["rows"] | {"test": 450}),
        ),
        "_row: 300 raw rows stand in train and in test, with the same ids and labels",
    ),
    "no array": (lambda d: (d / "histories/past.npy").unlink(), "histories: histories/past.npy is missing"),
    "not an array": (
        lambda d: (d / "histories/past.npy").write_bytes(b"ids"),
        "histories: histories/past.npy is damaged or no .npy file",
    ),
    "array's type": (
        lambda d: np.save(d / "bags/words.npy", np.zeros(ITEMS)),
        "bags/words.npy must be one flat array of int32, but is of float64",
    ),
    "array's length": (
        lambda d: np.save(d / "bags/words.npy", np.zeros(3, np.int32)),
        "bags/words.npy holds 3 ids, not the 50 of meta.json",
    ),
    "array's ids": (
        lambda d: np.save(d / "histories/past.npy", np.full(ITEMS, 30, np.int32)),
        "histories: histories/past.npy: ids are outside of 0..29: 50 ids, the first is at 0, with 30",
    ),
    "end": (lambda d: edit(d, T0, put("past_end", 2, 51)), "histories: train: values of 'past_end' are outside of 0..50: row 2"),
    "length": (
        lambda d: edit(d, T0, lambda f: put("past_len", 2, 9)(put("past_end", 2, 8)(f))),
        "histories: train: past_len is above past_end: the history begins before the flat array does: row 2 of",
    ),
    "truth's rows": (
        lambda d: edit(d, "oracle/test.parquet", lambda f: f[:-1]),
        "oracle: oracle/test.parquet has 299 rows, but the shards have 300",
    ),
    "truth's order": (lambda d: edit(d, "oracle/test.parquet", swap_rows), "_row is not that of the shards in their order: 2 rows"),
    "probability": (
        lambda d: edit(d, "oracle/test.parquet", put("click", 9, 1.5)),
        "the probability of 'click' is outside of 0..1: ",
    ),
    "no probability": (
        lambda d: edit(d, "oracle/test.parquet", put("click", 9, None)),
        "the probability of 'click' is outside of 0..1: ",
    ),
    "child's probability": (
        lambda d: edit(d, "oracle/test.parquet", put("purchase", 9, 0.6)),
        "the probability of 'purchase' is above that of 'click', its parent",
    ),
    "truth of no task": (
        lambda d: edit(d, "oracle/test.parquet", lambda f: f.drop("click")),
        "oracle/test.parquet has no column 'click'",
    ),
}


WARNINGS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "key": (lambda d: edit_meta(d, colour=3), "meta.json: key 'colour' means nothing"),
    "wide": (lambda d: edit(d, T0, lambda f: f.cast({"hour": pl.Int64})), "columns: column 'hour' is int64 instead of int32"),
    "more columns": (lambda d: edit(d, T0, lambda f: f.with_columns(day=1)), "columns: column 'day' is not named by meta.json"),
    "constant": (
        lambda d: [edit(d, f"train/00{i}.parquet", lambda f: f.with_columns(hour=pl.lit(3, pl.Int32))) for i in (0, 1)],
        "values: train: field 'hour' is 3 in every row",
    ),
    "no history": (
        lambda d: [edit(d, f"test/00{i}.parquet", lambda f: f.with_columns(past_len=pl.lit(0, pl.Int32))) for i in (0, 1)],
        "histories: test: 'past' is empty in every row",
    ),
    "foreign file": (lambda d: (d / "train" / "rows.csv").touch(), "files: train/rows.csv is read by nothing"),
    "foreign folder": (lambda d: (d / ".spill").mkdir(), "files: .spill is no part of a dataset"),
}  # fmt: skip
