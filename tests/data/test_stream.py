"""Every row once per epoch, on any number of ranks, and the same batches after a cut."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.stream import Stream
from seqmtl.data.table import Table


def table(rows: int) -> Table:
    return Table(torch.arange(rows, dtype=torch.int32)[:, None], torch.zeros(rows, 1, dtype=torch.int8))


def ids(stream: Stream) -> list[list[int]]:
    return [batch.fields[:, 0].tolist() for batch in stream]


sizes = {"rows": st.integers(1, 60), "batch": st.integers(1, 20), "ranks": st.integers(1, 4)}


@given(**sizes, epoch=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_row_once_and_shares_add_up(rows: int, batch: int, ranks: int, epoch: int) -> None:
    whole = Stream(table(rows), batch, seed=3)
    whole.set_epoch(epoch)
    one = ids(whole)
    parts = []
    shares = []
    for rank in range(ranks):
        stream = Stream(table(rows), batch, 3, rank, ranks)
        stream.set_epoch(epoch)
        batches = list(stream)
        parts.append([b.fields[:, 0].tolist() if b.share else [] for b in batches])
        assert all(len(b) for b in batches), "a rank without rows trains on one of weight 0"
        shares.append([b.share for b in batches])
    assert sorted(i for b in one for i in b) == list(range(rows))
    assert one == [[i for part in ranks_batch for i in part] for ranks_batch in zip(*parts, strict=True)]
    assert all(abs(sum(s) - 1) < 1e-9 for s in zip(*shares, strict=True))
    assert len(one) == len(whole)


@given(**sizes, cut=st.integers(0, 60), epoch=st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_a_cut_stream_goes_on_with_the_very_batches(rows: int, batch: int, ranks: int, cut: int, epoch: int) -> None:
    whole = Stream(table(rows), batch, 5, ranks - 1, ranks)
    whole.set_epoch(epoch)
    expected = ids(whole)
    cut = min(cut, len(whole))
    first = Stream(table(rows), batch, 5, ranks - 1, ranks)
    first.set_epoch(epoch)
    iterator = iter(first)
    seen = [next(iterator).fields[:, 0].tolist() for _ in range(cut)]
    second = Stream(table(rows), batch, 5, ranks - 1, ranks)
    resumed = iter(second)  # Lightning asks for the iterator before it gives the state
    second.load_state_dict(first.state_dict())
    second.set_epoch(epoch)
    assert seen + [b.fields[:, 0].tolist() for b in resumed] == expected


def test_epochs_and_seeds_differ_and_evaluation_keeps_the_order() -> None:
    stream = Stream(table(50), 7, seed=1)
    first = ids(stream)
    stream.set_epoch(1)
    assert ids(stream) != first
    assert ids(Stream(table(50), 7, seed=2)) != first
    assert ids(Stream(table(50), 7, seed=1)) == first
    in_order = Stream(table(50), 7)
    for _ in range(2):  # a second pass starts anew
        assert [i for batch in ids(in_order) for i in batch] == list(range(50))
