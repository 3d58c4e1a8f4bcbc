"""The writer refuses what no dataset may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.summary import print_summary
from seqmtl.prepare.writer import DatasetWriter

ROWS = {"f": [0, 1, 2], "click": [0, 1, 0], "_row": [0, 1, 2]}


def columns(**changes: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in (ROWS | changes).items()}


@pytest.mark.parametrize("field", ["play_time_ms", "is_like", "click", "_row"])
def test_an_outcome_or_a_label_is_no_field(tmp_path: Path, field: str) -> None:
    with pytest.raises(SeqmtlError, match=f"{field} happens after the impression or is a label"):
        DatasetWriter(tmp_path, ["f", field], {"click": None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"f": [0, -1, 2]}, "field f has a negative id"),
        ({"click": [0, 2, 0]}, "label click has values other than 0 and 1"),
        ({"f": [0, 2**32 + 1, 2]}, "column f in split train has values that are no int32"),
        ({"f": [0, 1.5, 2]}, "column f in split train has values that are no int32"),
        ({"click": [0, 256, 0]}, "column click in split train has values that are no int8"),
        ({"f": [0, 1]}, "columns of unequal length"),
    ],
)
def test_wrong_values(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    writer = DatasetWriter(tmp_path, ["f"], {"click": None})
    with pytest.raises(SeqmtlError, match=words):
        writer.add("train", columns(**changes))


def test_an_id_beyond_the_size(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, ["f"], {"click": None})
    for split in ("train", "valid", "test"):
        writer.add(split, columns())
    with pytest.raises(SeqmtlError, match="field f has id 2, but only 2 ids"):
        writer.finish({"f": 2}, {})


def test_rows_positives_and_types(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    writer = DatasetWriter(tmp_path, ["f"], {"click": None}, rows_per_shard=4)
    for split in ("train", "valid", "test"):
        for _ in range(3):
            writer.add(split, columns())
    meta = writer.finish({"f": 3}, {}, dropped={"a": 0, "b": 2})
    assert meta.rows == {"train": 9, "valid": 9, "test": 9}
    assert meta.positives["valid"] == {"click": 3}
    assert meta.dropped == {"b": 2}
    assert [meta.shards[f"test/part-0000{i}.parquet"]["rows"] for i in range(3)] == [4, 4, 1]
    table = pq.read_table(tmp_path / "test")
    assert {f.name: str(f.type) for f in table.schema} == {"f": "int32", "click": "int8", "_row": "int64"}
    assert table["f"].to_pylist() == [0, 1, 2] * 3


def with_history(ends: list[int], lengths: list[int]) -> dict[str, np.ndarray]:
    return columns(past_end=ends, past_len=lengths)


def test_histories_are_stored_flat_and_counted(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, ["f"], {"click": None}, histories={"past": "f"})
    for split in ("train", "valid", "test"):
        writer.add(split, with_history([0, 30, 100], [0, 30, 60]))
    for part in np.split(np.arange(100) % 3, [7, 50]):
        writer.history("past", part)
    meta = writer.finish({"f": 3}, {}, statistics={"more": 1})
    flat = np.load(tmp_path / "histories" / "past.npy", mmap_mode="r")
    assert flat.dtype == np.int32
    assert flat.tolist() == (np.arange(100) % 3).tolist()
    assert meta.histories == {"past": {"field": "f", "items": 100}}
    assert meta.shards["histories/past.npy"] == {"rows": 100, "bytes": (tmp_path / "histories" / "past.npy").stat().st_size}
    lengths = meta.statistics["history_lengths"]["past"]["valid"]
    assert lengths == {
        "mean": 30.0, "mean_of_last_10": 6.6667, "mean_of_last_20": 13.3333, "mean_of_last_50": 26.6667, "max": 60, "empty": 0.3333,
    }  # fmt: skip
    assert meta.statistics["more"] == 1


def test_another_history_is_another_checksum(tmp_path: Path) -> None:
    def checksum(ids: list[int]) -> str:
        writer = DatasetWriter(tmp_path, ["f"], {"click": None}, histories={"past": "f"})
        for split in ("train", "valid", "test"):
            writer.add(split, with_history([0, 1, 2], [0, 1, 1]))
        writer.history("past", np.array(ids))
        return writer.finish({"f": 3}, {}).checksum

    assert checksum([1, 2]) == checksum([1, 2]) != checksum([2, 1])


@pytest.mark.parametrize(
    ("ends", "lengths", "ids", "words"),
    [
        ([0, 1, 2], [0, 2, 1], [0, 1], "begin before the flat array does"),
        ([0, 1, 2], [0, -1, 1], [0, 1], "begin before the flat array does"),
        ([0, 1, 3], [0, 1, 1], [0, 1], "holds 2 ids, but a row ends at 3"),
        ([0, 1, 2], [0, 1, 1], [0, 3], "has id 3, but field f has only 3 ids"),
        ([0, 1, 2], [0, 1, 1], [0, -3], "has a negative id"),
    ],
)
def test_histories_that_do_not_fit(tmp_path: Path, ends: list[int], lengths: list[int], ids: list[int], words: str) -> None:
    writer = DatasetWriter(tmp_path, ["f"], {"click": None}, histories={"past": "f"})
    with pytest.raises(SeqmtlError, match=words):  # noqa: PT012
        for split in ("train", "valid", "test"):
            writer.add(split, with_history(ends, lengths))
        writer.history("past", np.array(ids))
        writer.finish({"f": 3}, {})
    assert not (tmp_path / "meta.json").exists()


def test_a_history_of_no_field(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError, match="history 'past' is made of 'g', which is none of the fields f"):
        DatasetWriter(tmp_path, ["f"], {"click": None}, histories={"past": "g"})


def test_the_truth_stands_beside_the_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    writer = DatasetWriter(tmp_path, ["f"], {"click": None}, rows_per_shard=2)
    for split in ("train", "valid", "test"):
        for start in (0, 3):
            rows = columns(_row=[start + 2, start, start + 1])
            writer.add(split, rows, truth={"click": rows["_row"] / 8})
    writer.finish({"f": 3}, {})
    truth = pq.read_table(tmp_path / "oracle" / "test.parquet")
    assert truth["_row"].to_pylist() == [2, 0, 1, 5, 3, 4] == pq.read_table(tmp_path / "test")["_row"].to_pylist()
    assert truth["click"].to_pylist() == [i / 8 for i in (2, 0, 1, 5, 3, 4)]


def test_multi_valued_fields(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, ["f"], {"click": None}, bags=["words"])
    for split in ("train", "valid", "test"):
        writer.add(split, columns(words_end=[1, 3, 3], words_len=[1, 2, 0]))
    writer.history("words", np.array([4, 0, 2]))
    meta = writer.finish({"f": 3, "words": 5}, {})
    assert (meta.bags, meta.histories) == ({"words": {"size": 5, "items": 3}}, {})
    assert np.load(tmp_path / "bags" / "words.npy").tolist() == [4, 0, 2]
    print_summary(Console(), "words", meta)  # finds the lengths


@pytest.mark.parametrize(
    ("fields", "histories", "bags"),
    [(["f", "past_end"], {"past": "f"}, []), (["f"], {"past": "f"}, ["past"]), (["f"], {}, ["past", "past"])],
)
def test_two_columns_of_one_name(tmp_path: Path, fields: list[str], histories: dict[str, str], bags: list[str]) -> None:
    with pytest.raises(SeqmtlError, match="two columns of the shards would be named past_end"):
        DatasetWriter(tmp_path, fields, {"click": None}, histories=histories, bags=bags)
