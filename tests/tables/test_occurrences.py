"""DTRN's Table 1 against counting by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from seqmtl.data.meta import Meta, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.tables import occurrences as module
from seqmtl.tables.occurrences import occurrences

TASKS = ("click", "purchase")


def all_rows(directory: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(directory.glob("*/*.parquet")) for row in pl.read_parquet(path).iter_rows(named=True)]


def by_hand(directory: Path, histories: dict[str, int], field: str) -> dict[str, dict[str, float | None]]:
    rows = all_rows(directory)
    seen: dict[int, Counter[int]] = {}
    for row in rows:
        if row["item"] and row[field]:
            seen.setdefault(row["item"], Counter())[row[field]] += 1
    value_of = {item: max(counts, key=lambda v: (counts[v], -v)) for item, counts in seen.items()}
    result: dict[str, dict[str, float | None]] = {}
    for name, max_len in histories.items():
        flat = np.load(directory / "histories" / f"{name}.npy").tolist()
        result[name] = {}
        for task in TASKS:
            counts = []
            for row in (row for row in rows if row[task]):
                past = flat[row[f"{name}_end"] - row[f"{name}_len"] : row[f"{name}_end"]][-max_len:]
                same = [i for i in past if i and (i if field == "item" else value_of.get(i)) == row[field]]
                counts.append(len(same) if row[field] else 0)
            result[name][task] = sum(counts) / len(counts) if counts else None
    return result


@pytest.fixture
def small(dataset: Path, with_histories: list[str]) -> tuple[Path, Meta]:
    """conftest's dataset, with histories of 0 to 5 items and ids 0 among them."""
    return dataset, read_meta(dataset)


@pytest.mark.parametrize("field", ["hour", "item", "user"])
@pytest.mark.parametrize("together", [65_536, 37])
def test_the_means_are_those_of_counting_by_hand(
    small: tuple[Path, Meta], field: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", together)
    directory, meta = small
    histories = {"seen": 4, "passed": 2}
    found = occurrences(directory, meta, histories, TASKS, field)
    wanted = by_hand(directory, histories, field)
    assert list(found) == list(histories)
    for name in histories:
        assert found[name] == pytest.approx(wanted[name], abs=1e-12)
    assert all(0 < mean < 4 for of in found.values() for mean in of.values() if mean is not None)


def test_a_case_that_one_sees(tmp_path: Path) -> None:
    # Items 1 and 2 are of category 1, item 3 of 2; item 4 is never the row's own, so nobody knows its category.
    rows = {
        "item": [1, 2, 3, 1, 0],
        "category": [1, 1, 2, 1, 0],
        "click": [1, 1, 1, 0, 1],
        "buy": [0, 1, 0, 0, 0],
        "seen_end": [4, 4, 7, 7, 8],
        "seen_len": [4, 2, 3, 3, 8],
    }
    flat = [3, 1, 2, 2, 4, 3, 1, 0]  # found again: 3 (of 3,1,2,2), 2 (of 2,2), 1 (of 4,3,1), not asked, 0 (unknown)
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
    frame = pl.DataFrame({"_row": range(5), **rows})
    frame[:3].write_parquet(tmp_path / "train" / "0.parquet")
    frame[3:4].write_parquet(tmp_path / "valid" / "0.parquet")
    frame[4:].write_parquet(tmp_path / "test" / "0.parquet")
    (tmp_path / "histories").mkdir()
    np.save(tmp_path / "histories" / "seen.npy", np.array(flat, np.int32))
    content = {
        "version": 1,
        "fields": {"item": 5, "category": 3},
        "parents": {"click": None, "buy": "click", "return": "buy"},
        "rows": {"train": 3, "valid": 1, "test": 1},
        "histories": {"seen": {"field": "item", "items": 8}},
    }
    (tmp_path / "meta.json").write_text(json.dumps(content))
    meta = read_meta(tmp_path)
    assert occurrences(tmp_path, meta, {"seen": 50}, ["click", "buy"]) == {"seen": {"click": 6 / 4, "buy": 2.0}}
    # As they are read: of the last two items.
    assert occurrences(tmp_path, meta, {"seen": 2}, ["buy", "click"]) == {"seen": {"buy": 2.0, "click": 5 / 4}}
    # The item itself: 1 (of 3,1,2,2), 2 (of 2,2), 1 (of 4,3,1), 0.
    assert occurrences(tmp_path, meta, {"seen": 50}, ["click"], "item") == {"seen": {"click": 1.0}}


def test_a_task_that_never_happens_has_no_mean(small: tuple[Path, Meta]) -> None:
    directory, meta = small
    for path in directory.glob("*/*.parquet"):
        pl.read_parquet(path).with_columns(pl.lit(0).cast(pl.Int8).alias("purchase")).write_parquet(path)
    found = occurrences(directory, meta, {"seen": 4}, TASKS, "hour")
    assert found["seen"]["purchase"] is None
    assert found["seen"]["click"] is not None


@pytest.mark.parametrize(
    ("histories", "tasks", "field", "said"),
    [
        ({"bought": 5}, TASKS, "hour", "no history bought; they have seen, passed"),
        ({}, TASKS, "hour", "the data have no history to count"),
        ({"seen": 5}, ("click", "order"), "hour", "no task order; they have click, purchase"),
        ({"seen": 5}, TASKS, "category", "no field category; they have user, item, hour"),
    ],
)
def test_what_the_data_do_not_have(
    small: tuple[Path, Meta], histories: dict[str, int], tasks: tuple[str, ...], field: str, said: str
) -> None:
    with pytest.raises(SeqmtlError, match=said):
        occurrences(*small, histories, tasks, field)
