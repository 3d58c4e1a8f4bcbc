"""What is read: histories that fit, negatives that are left out, and where the rows are held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from seqmtl.data import storage
from seqmtl.data.downsample import chosen_downsample
from seqmtl.data.histories import Histories
from seqmtl.data.meta import Meta, read_meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.errors import SeqmtlError
from seqmtl.types import Field, History, Schema


@pytest.fixture
def with_history(dataset: Path) -> Path:
    """The tiny dataset, each of whose rows has the same history of items 1, 2, 3."""
    meta = json.loads((dataset / "meta.json").read_text())
    meta["histories"] = {"past": {"field": "item", "items": 3}}
    (dataset / "meta.json").write_text(json.dumps(meta))
    (dataset / "histories").mkdir()
    np.save(dataset / "histories" / "past.npy", np.array([1, 2, 3], np.int32))
    for shard in dataset.glob("*/*.parquet"):
        pl.read_parquet(shard).with_columns(past_end=pl.lit(3), past_len=pl.lit(3, pl.Int32)).write_parquet(shard)
    return dataset


def opened(directory: Path) -> tuple[Meta, Schema]:
    meta = read_meta(directory)
    return meta, replace(meta.schema(), histories=(History("past", "item", 2),))


def test_the_last_items_are_read(with_history: Path) -> None:
    meta, schema = opened(with_history)
    stream = Stream(Shards(with_history, meta, schema, "valid"), 8, histories=Histories(with_history, meta, schema))
    batch = next(iter(stream))
    assert batch.past["past"].tolist() == [[2, 3]] * 8
    assert batch.past_len["past"].tolist() == [2] * 8


@pytest.mark.parametrize(
    ("flat", "says"),
    [
        (np.array([1, 2], np.int32), "must hold 3 int32 ids"),
        (np.array([1, 2, 3], np.int64), "must hold 3 int32 ids"),
        (np.array([1, 2, 30], np.int32), "holds id 30, but its ids run from 0 to 29"),
        (np.array([1, -2, 3], np.int32), "holds id -2"),
        (b"no array", r"past\.npy is damaged"),
        (None, r"past\.npy is missing; prepare the dataset again"),
    ],
)
def test_a_bad_history_file(with_history: Path, flat: Any, says: str) -> None:
    path = with_history / "histories" / "past.npy"
    path.unlink()
    if isinstance(flat, bytes):
        path.write_bytes(flat)
    elif flat is not None:
        np.save(path, flat)
    meta, schema = opened(with_history)
    with pytest.raises(SeqmtlError, match=says):
        list(Stream(Shards(with_history, meta, schema, "valid"), 8, histories=Histories(with_history, meta, schema)))


@pytest.mark.parametrize(
    ("end", "length", "says"),
    [(4, 1, "row 7 has 4 in column 'past_end'"), (2, 3, "row 7 has past_len 3 above past_end 2"), (3, -1, "row 7 has -1")],
)
def test_rows_whose_history_does_not_fit(with_history: Path, end: int, length: int, says: str) -> None:
    shard = with_history / "train" / "001.parquet"
    frame = pl.read_parquet(shard)
    frame[7, "past_end"], frame[7, "past_len"] = end, length
    frame.write_parquet(shard)
    meta, schema = opened(with_history)
    with pytest.raises(SeqmtlError, match=says):
        Shards(with_history, meta, schema, "train").load()


def config_of(**changes: Any) -> dict[str, Any]:
    dataset = {"name": "x", "fields": None, "tasks": ["click"], "histories": {}, "bags": {}, "main_history": None}
    return {"dataset": dataset | changes}


@pytest.mark.parametrize(
    ("histories", "main", "says"),
    [
        ({"gone": {"max_len": 3}}, None, r"no such history \(they have past\); take it out with '~dataset\.histories\.gone'"),
        ({"past": {"max_len": 0}}, None, "max_len must be an integer of at least 1, not 0"),
        ({"past": {}}, None, "max_len must be an integer of at least 1, not None"),
        ({"past": {"max_len": 3, "sign": 2}}, None, "takes max_len, sign"),
        ({"past": {"max_len": 3, "length": 2}}, None, "takes max_len, sign"),
        ({"past": {"max_len": 3}}, "gone", r"main_history=gone is none of dataset\.histories \(past\)"),
    ],
)
def test_histories_that_make_no_sense(with_history: Path, histories: Any, main: str | None, says: str) -> None:
    config = config_of(histories=histories, main_history=main)
    with pytest.raises(SeqmtlError, match=says):
        chosen_schema(config, read_meta(with_history))


def test_histories_of_a_config(with_history: Path) -> None:
    histories = {"past": {"max_len": 3, "sign": -1, "own_table": True}}
    config = config_of(histories=histories, main_history="past")
    schema = chosen_schema(config, read_meta(with_history))
    assert schema.histories == (History("past", "item", 3, -1, True),)
    assert schema.main_history == "past"


# -- multi-valued fields


@pytest.fixture
def with_bag(with_history: Path) -> Path:
    """The same file as a multi-valued field of 30 ids."""
    meta = json.loads((with_history / "meta.json").read_text())
    meta |= {"histories": {}, "bags": {"past": {"size": 30, "items": 3}}}
    (with_history / "meta.json").write_text(json.dumps(meta))
    (with_history / "histories").rename(with_history / "bags")
    return with_history


def test_a_multi_valued_field_is_read(with_bag: Path) -> None:
    meta = read_meta(with_bag)
    assert chosen_schema(config_of(), meta).bags == (), "off unless it is asked for"
    schema = chosen_schema(config_of(bags={"past": 2}), meta)
    assert schema.fields[-1] == Field("past", 30, bag=2)
    stream = Stream(Shards(with_bag, meta, schema, "valid"), 8, histories=Histories(with_bag, meta, schema))
    batch = next(iter(stream))
    assert batch.fields.shape == (8, 3)
    assert batch.past["past"].tolist() == [[2, 3]] * 8


def test_yaml_reads_the_names_of_bags_as_numbers(with_bag: Path) -> None:
    meta = replace(read_meta(with_bag), bags={"109_14": {"size": 30, "items": 3}})
    assert chosen_schema(config_of(bags={10914: 2}), meta).bags == (Field("109_14", 30, bag=2),)


@pytest.mark.parametrize(
    ("bags", "says"),
    [({"gone": 3}, r"no such multi-valued field \(they have past\)"), ({"past": 0}, "must be the most ids that are read")],
)
def test_bags_that_make_no_sense(with_bag: Path, bags: Any, says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        chosen_schema(config_of(bags=bags), read_meta(with_bag))


# -- negatives that are left out


def counted(directory: Path) -> Meta:
    meta = read_meta(directory)
    shards = {s: pl.read_parquet(directory / s / "*.parquet") for s in meta.rows}
    return replace(meta, positives={s: {t: int(f[t].sum()) for t in meta.parents} for s, f in shards.items()})


def test_negatives_are_thinned_to_the_rate(dataset: Path) -> None:
    meta = counted(dataset)
    thin = chosen_downsample({"task": "purchase", "rate": 0.6, "seed": 1}, meta)
    whole = Shards(dataset, meta, meta.schema(), "train").load()
    shards = Shards(dataset, meta, meta.schema(), "train", thin)
    rows = shards.load()
    assert rows.y[:, 1].sum() == whole.y[:, 1].sum(), "no positive is lost"
    kept = meta.positives["train"]["purchase"] / 0.6
    assert abs(len(shards) - kept) < 4 * kept**0.5
    # The same rows in any order of reading and for any batch.
    seen = sorted(tuple(row) for b in Stream(shards, 7, 3, 1, 2, window=50) if b.share for row in b.fields.tolist())
    seen += [tuple(row) for b in Stream(shards, 7, 3, 0, 2, window=50) if b.share for row in b.fields.tolist()]
    assert sorted(seen) == sorted(tuple(row) for row in rows.fields.tolist())
    other = chosen_downsample({"task": "purchase", "rate": 0.6, "seed": 2}, meta)
    assert Shards(dataset, meta, meta.schema(), "train", other).load().fields.tolist() != rows.fields.tolist()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "gone", "rate": 0.5, "seed": 0}, r"task=gone: meta\.json counts no positives of it in training"),
        ({"task": "purchase", "rate": 0.01, "seed": 0}, "must lie between the rate of purchase in the training rows"),
        ({"task": "purchase", "rate": 1, "seed": 0}, "must lie between"),
        ({"task": "purchase", "rate": 0.9, "seed": -1}, "seed must be an integer of at least 0"),
        ({"task": "purchase", "rate": 0.9}, "must be null or"),
    ],
)
def test_a_downsampling_that_makes_no_sense(dataset: Path, options: Any, says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        chosen_downsample(options, counted(dataset))


# -- where the rows are held


def test_auto_is_memory_where_the_rows_fit(dataset: Path, compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.memory() > 2**28
    config, meta = compose("dataset=aliccp_sim"), read_meta(dataset)
    schema = replace(meta.schema(), histories=(History("past", "item", 2),))
    row = 3 * 4 + 2 + 12 + 12
    needed = row * (600 + 200 + 300)
    for devices in (1, 3):
        config["trainer"]["devices"] = devices
        monkeypatch.setattr(storage, "memory", lambda: 2 * needed * devices)  # noqa: B023
        assert storage.chosen_storage(config, meta, schema) == "memory"
        monkeypatch.setattr(storage, "memory", lambda: 2 * needed * devices - 1)  # noqa: B023
        assert storage.chosen_storage(config, meta, schema) == "disk"
    for given in ("memory", "disk"):
        config["dataset"]["storage"] = given
        assert storage.chosen_storage(config, meta, schema) == given
