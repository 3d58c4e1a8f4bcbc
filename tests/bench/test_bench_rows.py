"""The rows that `seqmtl bench` makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seqmtl.bench.rows import VOCABULARY, RowMaker, chain, scaled, write_rows, zipf_ids
from seqmtl.data.meta import read_meta
from seqmtl.data.shards import Shards

SIZES = {"user": 1000, "item": 50, "hour": 3, "one": 1}
TASKS = ("click", "cart", "purchase")


def test_ids_lie_in_their_tables_and_follow_zipfs_law() -> None:
    size, n = 1000, 200_000
    ids = zipf_ids(np.random.default_rng(0), size, n)
    assert ids.dtype == np.int32
    assert ids.min() == 1
    assert ids.max() == size - 1
    shares = np.bincount(ids, minlength=size)[1:] / n
    k = np.arange(1, size)
    wanted = np.log1p(1 / k) / np.log(size)
    assert np.abs(shares - wanted).max() < 4 * np.sqrt(wanted[0] * (1 - wanted[0]) / n)


def test_the_smallest_and_the_largest_tables() -> None:
    rng = np.random.default_rng(0)
    assert set(zipf_ids(rng, 1, 100)) == {0}
    assert set(zipf_ids(rng, 2, 100)) == {1}
    large = zipf_ids(rng, 2**31 - 1, 10_000)
    assert large.min() >= 1  # nothing has run over


def test_the_default_tables_are_ali_ccps() -> None:
    assert len(VOCABULARY) == 18
    assert sum(VOCABULARY.values()) == 1_283_090
    assert min(scaled(1e-9).values()) == 2


def test_a_step_needs_the_one_before_it() -> None:
    columns = RowMaker(SIZES, TASKS).columns(20_000)
    for task, parent in chain(TASKS).items():
        assert columns[task].sum() > 0
        if parent is not None:
            assert (columns[task] <= columns[parent]).all()
            assert columns[task].sum() < columns[parent].sum()


def test_ids_tell_something_of_the_labels() -> None:
    maker = RowMaker(SIZES, TASKS)
    columns = maker.columns(50_000)
    taste = sum(maker.tastes[name][columns[name], 0] for name in SIZES)
    rate = [columns["click"][half].mean() for half in (taste < np.median(taste), taste >= np.median(taste))]
    assert rate[1] > 1.3 * rate[0]


def test_the_same_seed_gives_the_same_rows_in_a_dataset_like_any_other(tmp_path: Path) -> None:
    rows = {"train": 300, "valid": 20, "test": 40}
    metas = [
        write_rows(tmp_path / name, RowMaker(SIZES, TASKS, {"seen": 7}, seed), rows)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert metas[0].checksum == metas[1].checksum != metas[2].checksum
    meta = read_meta(tmp_path / "a")
    assert meta.rows == rows
    assert meta.parents == {"click": None, "cart": "click", "purchase": "cart"}
    assert meta.histories["seen"]["field"] == "user"
    loaded = Shards(tmp_path / "a", meta, meta.schema(), "train").load()  # refuses ids and labels out of range
    assert loaded.fields.shape == (300, len(SIZES))
