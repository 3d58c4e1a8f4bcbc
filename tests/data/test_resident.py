"""Rows that live on the device make the batches of `Stream`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.resident import Resident
from seqmtl.data.rows import Rows
from seqmtl.data.stream import Stream
from seqmtl.types import Batch


def some_rows(n: int) -> Rows:
    rows = Rows.room(n, 2, 1, 0)
    rows.fields[:] = np.arange(2 * n).reshape(n, 2)
    rows.y[:] = np.arange(n)[:, None] % 3 == 0
    return rows


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.fields, other.fields) and torch.equal(one.y, other.y) and one.share == other.share


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    batch_size=st.integers(1, 64),
    seed=st.one_of(st.none(), st.integers(0, 3)),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 2),
    skip=st.integers(0, 3),
)
def test_the_batches_are_those_of_the_stream(
    n: int, batch_size: int, seed: int | None, world_size: int, epoch: int, skip: int
) -> None:
    rows = some_rows(n)
    for rank in range(world_size):
        streams = [kind(rows, batch_size, seed, rank, world_size) for kind in (Stream, Resident)]
        for stream in streams:
            stream.load_state_dict({"epoch": epoch, "position": min(skip, len(stream))})
        one, other = (list(stream) for stream in streams)
        assert len(one) == len(other)
        assert all(map(same, one, other))
        assert streams[0].state_dict() == streams[1].state_dict()


@pytest.mark.parametrize("seed", [None, 1])
def test_the_position_is_told_before_a_batch_is_used(seed: int | None) -> None:
    stream = Resident(some_rows(50), 8, seed)
    assert [stream.position for _ in stream] == [1, 2, 3, 4, 5, 6, 7]


def test_places_are_sorted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(Resident(some_rows(100), 8, 5))
    monkeypatch.setattr("seqmtl.data.resident.SORTED", 16)
    assert all(map(same, whole, Resident(some_rows(100), 8, 5)))
