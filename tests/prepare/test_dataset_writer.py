"""The writer refuses what no dataset may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqmtl.errors import SeqmtlError
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
    [({"f": [0, -1, 2]}, "field f has a negative id"), ({"click": [0, 2, 0]}, "label click has values other than 0 and 1")],
)
def test_wrong_values(tmp_path: Path, changes: dict[str, list[int]], words: str) -> None:
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
