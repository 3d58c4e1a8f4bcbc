"""Every row once per epoch, on any number of ranks and workers, from memory and from the disk, and the same batches after a cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.histories import Histories
from seqmtl.data.meta import read_meta
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.types import Batch, History, Schema

ITEMS = 40


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """make(rows, block) → shards of rows 0..rows-1 in row groups of `block`, and their histories: row i has the items before i."""
    made: dict[tuple[int, int], tuple[Shards, Histories]] = {}

    def write(rows: int, block: int) -> tuple[Shards, Histories]:
        directory: Path = tmp_path_factory.mktemp("data") / f"{rows}-{block}"
        (directory / "train").mkdir(parents=True)
        (directory / "histories").mkdir()
        i = np.arange(rows)
        columns = {"row": i, "item": i % ITEMS, "click": i % 2, "_row": i, "past_end": i, "past_len": np.minimum(i, 9)}
        for shard, at in enumerate((slice(0, rows // 2), slice(rows // 2, rows))):
            table = pa.table({name: values[at] for name, values in columns.items()})
            pq.write_table(table, directory / "train" / f"{shard}.parquet", row_group_size=block)
        np.save(directory / "histories" / "past.npy", (i % ITEMS).astype(np.int32))
        meta = {"version": 1, "fields": {"row": 10**6, "item": ITEMS}, "parents": {"click": None}}
        meta |= {"rows": {"train": rows, "valid": 0, "test": 0}, "histories": {"past": {"field": "item", "items": rows}}}
        (directory / "meta.json").write_text(json.dumps(meta))
        read = read_meta(directory)
        schema: Schema = replace(read.schema(), histories=(History("past", "item", 5),), main_history="past")
        return Shards(directory, read, schema, "train"), Histories(directory, read, schema)

    def cached(rows: int, block: int) -> tuple[Shards, Histories]:
        if (rows, block) not in made:
            made[rows, block] = write(rows, block)
        return made[rows, block]

    return cached


def ids(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch.fields[:, 0].tolist() if batch.share else [] for batch in batches]


def exact(batch: Batch) -> tuple[Any, ...]:
    """All that a model sees of a batch."""
    return batch.fields.tolist(), batch.y.tolist(), batch.share, batch.past["past"].tolist(), batch.past_len["past"].tolist()


layout = {
    "rows": st.integers(1, 60),
    "block": st.sampled_from([1, 4, 7, 100]),
    "batch": st.integers(1, 20),
    "ranks": st.integers(1, 4),
    "workers": st.integers(0, 2),
    "window": st.sampled_from([1, 10, 1000]),
    "storage": st.sampled_from(["memory", "disk"]),
    "epoch": st.integers(0, 2),
}


@given(**layout)
@settings(max_examples=120, deadline=None)
def test_every_row_once_and_shares_add_up(make: Any, storage: str, epoch: int, **size: int) -> None:
    shards, histories = make(size["rows"], size["block"])
    source = shards if storage == "disk" else shards.load()

    def stream(rank: int, ranks: int, workers: int) -> Stream:
        made = Stream(source, size["batch"], 3, rank, ranks, workers, histories, size["window"])
        made.set_epoch(epoch)
        return made

    whole = ids(iter(stream(0, 1, 0)))
    assert sorted(i for batch in whole for i in batch) == list(range(size["rows"]))
    assert [len(batch) for batch in whole[:-1]] == [size["batch"]] * (len(whole) - 1)
    parts = [list(stream(rank, size["ranks"], size["workers"])) for rank in range(size["ranks"])]
    assert all(len(batch) for part in parts for batch in part), "a rank without rows trains on one of weight 0"
    together = [[i for part in batches for i in part] for batches in zip(*(ids(iter(part)) for part in parts), strict=True)]
    assert together == whole
    assert all(abs(sum(b.share for b in batches) - 1) < 1e-9 for batches in zip(*parts, strict=True))
    assert len(whole) == len(stream(0, 1, 0))


@given(**layout, cut=st.integers(0, 60), rank=st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_a_cut_stream_goes_on_with_the_very_batches(make: Any, storage: str, epoch: int, cut: int, rank: int, **size: int) -> None:
    shards, histories = make(size["rows"], size["block"])
    source = shards if storage == "disk" else shards.load()
    rank %= size["ranks"]

    def stream(workers: int) -> Stream:
        return Stream(source, size["batch"], 5, rank, size["ranks"], workers, histories, size["window"])

    whole = stream(0)
    whole.set_epoch(epoch)
    expected = [exact(batch) for batch in whole]
    first = stream(size["workers"])
    first.set_epoch(epoch)
    iterator = iter(first)
    seen = [exact(next(iterator)) for _ in range(min(cut, len(whole)))]
    state = first.state_dict()  # what was made ahead does not count
    second = stream(size["workers"])
    resumed = iter(second)  # Lightning asks for the iterator before it gives the state
    second.load_state_dict(state)
    second.set_epoch(epoch)
    assert seen + [exact(batch) for batch in resumed] == expected


@given(**layout)
@settings(max_examples=80, deadline=None)
def test_evaluation_sees_every_row_once_and_in_order(make: Any, storage: str, epoch: int, **size: int) -> None:
    shards, histories = make(size["rows"], size["block"])
    source = shards if storage == "disk" else shards.load()
    streams = [
        Stream(source, size["batch"], None, r, size["ranks"], size["workers"], histories, size["window"])
        for r in range(size["ranks"])
    ]
    for _ in range(2):  # a second pass starts anew
        ranks = [[batch.fields[:, 0].tolist() for batch in stream] for stream in streams]
        assert [i for rank in ranks for batch in rank for i in batch] == list(range(size["rows"]))
        assert len({len(rank) for rank in ranks}) == 1, "the ranks go through as many batches"
        assert all(len(rank) == len(stream) for rank, stream in zip(ranks, streams, strict=True))


def test_histories_are_the_last_items_and_cut_to_the_longest(make: Any) -> None:
    shards, histories = make(60, 7)
    for batch in Stream(shards, 8, 1, histories=histories, window=20):
        longest = int(batch.past_len["past"].max())
        assert batch.past["past"].shape == (len(batch), max(1, longest))
        for row, past, n in zip(
            batch.fields[:, 0].tolist(), batch.past["past"].tolist(), batch.past_len["past"].tolist(), strict=True
        ):
            expected = [i % ITEMS for i in range(max(0, row - 5), row)]
            assert n == len(expected)
            assert past == expected + [0] * (len(past) - n)


def test_epochs_and_seeds_differ(make: Any) -> None:
    shards, _ = make(60, 7)
    for source in (shards, shards.load()):
        stream = Stream(source, 7, seed=1, window=20)
        first = ids(iter(stream))
        stream.set_epoch(1)
        assert ids(iter(stream)) != first
        assert ids(iter(Stream(source, 7, seed=2, window=20))) != first
        assert ids(iter(Stream(source, 7, seed=1, window=20))) == first


def test_a_rank_reads_little_more_than_its_part(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, _ = make(6000, 100)
    read: list[int] = []
    real = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, blocks: (read.extend(blocks), real(self, blocks))[1])
    for seed in (1, None):
        for rank in range(4):
            read.clear()
            for _ in Stream(shards, 200, seed, rank, 4, window=2000):
                pass
            assert len(read) < 0.5 * len(shards.sizes), f"rank {rank} read {len(read)} of {len(shards.sizes)} blocks"
            assert len(read) == len(set(read))


def test_an_epoch_that_ends_early_leaves_no_thread(make: Any) -> None:
    import threading

    shards, histories = make(60, 7)
    before = threading.active_count()
    iterator = iter(Stream(shards, 2, 1, workers=2, histories=histories, window=20))
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_error_of_a_worker_is_told(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, histories = make(60, 7)

    def broken(self: Shards, blocks: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Shards, "read", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(Stream(shards, 2, 1, workers=2, histories=histories, window=20))


def test_labels_are_float_and_rows_int(make: Any) -> None:
    batch = next(iter(Stream(make(60, 7)[0], 8)))
    assert batch.y.dtype == torch.float32
    assert batch.fields.dtype == torch.int32
