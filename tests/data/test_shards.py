"""Shards and meta.json that are missing, damaged or of another version are refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import FIELDS, ROWS, write_dataset
from seqmtl.data.meta import data_version, read_meta
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.data.shards import Shards
from seqmtl.errors import SeqmtlError

NO_HISTORIES: dict[str, Any] = {"histories": {}, "bags": {}, "main_history": None}


def load(directory: Path, split: str = "train") -> Any:
    meta = read_meta(directory)
    return Shards(directory, meta, meta.schema(), split).load()


def test_rows_come_in_the_order_of_the_shards(dataset: Path) -> None:
    table = load(dataset)
    rows = pl.concat([pl.read_parquet(p) for p in sorted((dataset / "train").glob("*.parquet"))])
    assert len(table) == ROWS["train"]
    for i, field in enumerate(FIELDS):
        assert table.fields[:, i].tolist() == rows[field].to_list()
    assert table.y.tolist() == rows.select("click", "purchase").to_numpy().tolist()


def test_a_missing_shard_is_named(dataset: Path) -> None:
    meta = json.loads((dataset / "meta.json").read_text())
    meta["shards"] = {f"train/00{i}.parquet": {"rows": 300, "bytes": 1} for i in range(3)}
    (dataset / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SeqmtlError, match=r"train/002\.parquet is missing; prepare the dataset again \(seqmtl prepare"):
        load(dataset)


def test_a_missing_split_is_named(dataset: Path) -> None:
    for shard in (dataset / "valid").glob("*"):
        shard.unlink()
    with pytest.raises(SeqmtlError, match=r"valid/\*\.parquet is missing"):
        load(dataset, "valid")


def test_a_truncated_shard_is_named(dataset: Path) -> None:
    shard = dataset / "train" / "001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(SeqmtlError, match=r"001\.parquet is damaged or truncated"):
        load(dataset)


def test_fewer_rows_than_meta_json_says(dataset: Path) -> None:
    (dataset / "train" / "001.parquet").unlink()
    with pytest.raises(SeqmtlError, match=r"holds 300 rows and not the 600 that meta\.json names"):
        load(dataset)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("user", -1, r"row 7 has -1 in column 'user', whose ids run from 0 to 39"),
        ("item", 30, r"row 7 has 30 in column 'item', whose ids run from 0 to 29"),
        ("click", 2, r"row 7 has 2 in column 'click', whose labels run from 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_named(dataset: Path, column: str, value: int, says: str) -> None:
    shard = dataset / "test" / "000.parquet"
    frame = pl.read_parquet(shard)
    frame[7, column] = value
    frame.write_parquet(shard)
    with pytest.raises(SeqmtlError, match=says):
        load(dataset, "test")


def test_the_row_is_counted_in_the_file_and_not_in_its_row_group(dataset: Path) -> None:
    shard = dataset / "test" / "000.parquet"
    frame = pl.read_parquet(shard)
    frame[17, "user"] = -1
    frame.write_parquet(shard, row_group_size=10)
    with pytest.raises(SeqmtlError, match="row 17 has -1"):
        load(dataset, "test")


def test_nulls_and_strings_are_refused(dataset: Path) -> None:
    shard = dataset / "test" / "000.parquet"
    pl.read_parquet(shard).with_columns(pl.col("user").cast(pl.String)).write_parquet(shard)
    with pytest.raises(SeqmtlError, match="column 'user' must hold integers and no nulls"):
        load(dataset, "test")


def test_a_column_that_the_shard_lacks(dataset: Path) -> None:
    shard = dataset / "test" / "001.parquet"
    pl.read_parquet(shard).drop("hour").write_parquet(shard)
    with pytest.raises(SeqmtlError, match=r"001\.parquet has no column hour"):
        load(dataset, "test")


def test_a_split_without_rows(tmp_path: Path) -> None:
    directory = write_dataset(tmp_path / "empty", rows={"train": 10, "valid": 0, "test": 10})
    with pytest.raises(SeqmtlError, match="valid has no rows"):
        load(directory, "valid")


WHOLE = '{"version": 1, "fields": {"a": 2}, "parents": {"c": null}, "rows": {"train": 1, "valid": 1, "test": 1}'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged or no meta.json"),
        ('{"version": 1, "fie', "damaged or no meta.json"),
        ("[]", "damaged or no meta.json"),
        ('{"version": 9}', "has version 9, this seqmtl reads version 1"),
        ('{"version": 1, "fields": {"a": 3}}', "is damaged"),
        ('{"version": 1, "fields": {"a": 0}, "parents": {"c": null}, "rows": {"train": 1, "valid": 1, "test": 1}}', "damaged"),
        ('{"version": 1, "fields": {"a": 2}, "parents": ["c"], "rows": {"train": 1, "valid": 1, "test": 1}}', "must be objects"),
        ('{"version": 1, "fields": {"a": 2}, "parents": {"c": "d"}, "rows": {"train": 1, "valid": 1, "test": 1}}', "parent 'd'"),
        (f'{WHOLE}, "histories": {{"h": {{"field": "b", "items": 3}}}}}}', "history h must have the field that it is made of"),
        (f'{WHOLE}, "histories": {{"h": {{"field": "a"}}}}}}', "'items'"),
        (f'{WHOLE}, "histories": 3}}', "must be objects"),
        (f'{WHOLE}, "bags": {{"b": {{"size": 3}}}}}}', "'items'"),
        (
            '{"version": 1, "fields": {"a": 2}, "parents": {"c": null}, "rows": {"train": -1, "valid": 1, "test": 1}}',
            "rows of each",
        ),
    ],
)
def test_a_bad_meta_json(dataset: Path, text: str, says: str) -> None:
    (dataset / "meta.json").write_text(text)
    with pytest.raises(SeqmtlError, match=says):
        read_meta(dataset)


@pytest.mark.parametrize("name", ["watching_times", "play_time_ms", "click", "_row"])
def test_an_outcome_is_never_a_field(dataset: Path, name: str) -> None:
    meta = json.loads((dataset / "meta.json").read_text())
    meta["fields"][name] = 7
    (dataset / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SeqmtlError, match=f"{name} happens after the impression or is a label"):
        read_meta(dataset)


def test_a_field_that_the_data_lack(dataset: Path) -> None:
    config = {"dataset": {"name": "aliccp_sim", "fields": ["user", "colour"], "tasks": ["click"]} | NO_HISTORIES}
    with pytest.raises(SeqmtlError, match=r"dataset\.fields names colour; .* have the fields user, item, hour"):
        chosen_schema(config, read_meta(dataset))


def test_fields_and_tasks_are_chosen(dataset: Path) -> None:
    config = {"dataset": {"name": "aliccp_sim", "fields": ["hour", "user"], "tasks": ["purchase"]} | NO_HISTORIES}
    schema = chosen_schema(config, read_meta(dataset))
    assert schema.field_names == ("user", "hour")
    assert schema.parents == (None,)


def test_a_dataset_that_is_not_prepared(tmp_path: Path, compose: Any) -> None:
    config = compose("dataset=aliccp") | {"data_dir": str(tmp_path)}
    with pytest.raises(SeqmtlError) as said:
        open_dataset(config)
    message = str(said.value)
    for part in ("not prepared", "tianchi.aliyun.com", "seqmtl prepare dataset=aliccp", "seqmtl prepare dataset=aliccp_sim"):
        assert part in message


def test_data_made_with_other_options(dataset: Path, compose: Any) -> None:
    config = compose("dataset=aliccp_sim") | {"data_dir": str(dataset.parent)}
    meta = json.loads((dataset / "meta.json").read_text())
    meta["options"] = config["dataset"]["prepare"] | {"min_count": 7}
    (dataset / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SeqmtlError, match=r"other options .*min_count=7(.|\n)*dataset\.prepare\.min_count=1 overwrite=true"):
        open_dataset(config)
    meta["options"] = config["dataset"]["prepare"]
    (dataset / "meta.json").write_text(json.dumps(meta))
    assert open_dataset(config)[0] == dataset


def test_the_version_changes_with_the_shards(dataset: Path) -> None:
    before = data_version(dataset, read_meta(dataset))
    shard = dataset / "train" / "001.parquet"
    pl.read_parquet(shard)[:-1].write_parquet(shard)
    assert data_version(dataset, read_meta(dataset)) != before
