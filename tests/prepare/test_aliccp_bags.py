"""Multi-valued fields of Ali-CCP: by hand, with other blocks and threads, and read again by the loader."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from aliccp_files import (
    FIELDS,
    PARTS,
    Pairs,
    read_all,
    slow,
    small_raw,
    with_bags,
    write_raw,
)

from seqmtl.data.histories import Histories
from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import aliccp_bags, aliccp_rows
from seqmtl.prepare.aliccp import prepare
from seqmtl.prepare.aliccp_bags import chosen_bags
from seqmtl.prepare.aliccp_line import BAGS
from seqmtl.simulate.aliccp import simulate

COMMON: dict[str, Pairs] = {
    "a": [("109_14", 40), ("101", 7), ("109_14", 30), ("109_14", 40)],  # order and repeats are kept
    "b": [("101", 8), ("210", 5)],  # 210 in the common features overrides the row's
    "c": [("109_14", 30), ("109_14", 99)],  # nobody's row: it counts nothing
    "d": [("101", 9)],  # has none
}
ROWS: list[tuple[int, int, str, Pairs]] = [
    (0, 0, "a", [("210", 6), ("205", 800), ("210", 5), ("150_14", 3)]),  # 150_14 of the row: its user has none
    (0, 0, "a", [("210", 6), ("109_14", 1)]),  # 109_14 of the user overrides that of the row
    (0, 1, "a", [("210", 9), ("210", 9)]),  # left out: counts nothing
    (0, 0, "b", [("210", 9), ("150_14", 3)]),
    (1, 0, "b", []),
    (0, 0, "d", [("210", 6)]),
]
TEST_ROWS: list[tuple[int, int, str, Pairs]] = [
    (1, 0, "a", [("210", 6), ("210", 7), ("210", 5)]),  # 7 and 5 are no ids that training has twice
    (1, 0, "e", []),
]
# By hand, min_count 2, counted once per user: 109_14 {40} (30 once in a, c counts nothing), 210 {6}, 5 twice: in row 0 and user b;
# 150_14 {3}, 110_14 has none.
EXPECTED = {
    ("train", 0): {"109_14": [1, 0, 1], "110_14": [], "150_14": [1], "210": [2, 1]},
    ("train", 1): {"109_14": [1, 0, 1], "110_14": [], "150_14": [], "210": [2]},
    ("train", 3): {"109_14": [], "110_14": [], "150_14": [1], "210": [1]},
    ("train", 4): {"109_14": [], "110_14": [], "150_14": [], "210": [1]},
    ("train", 5): {"109_14": [], "110_14": [], "150_14": [], "210": [2]},
    ("test", 0): {"109_14": [0, 1], "110_14": [], "150_14": [], "210": [2, 0, 1]},
    ("test", 1): {"109_14": [], "110_14": [], "150_14": [], "210": []},
}


def every_rule(raw: Path) -> None:
    write_raw(raw, "train", COMMON, ROWS)
    write_raw(raw, "test", {"a": [("109_14", 41), ("109_14", 40)], "e": []}, TEST_ROWS)


def test_six_rows_show_every_rule(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    every_rule(raw)
    names = ["210", "150_14", "109_14", "110_14"]
    prepare(raw, out, min_count=2, split="random", valid_share=0.4, split_seed=1, bags=names)
    data = read_all(out)
    found = {}
    for split, frame in data.items():
        for row in with_bags(out, frame.to_dicts(), names):
            found["test" if split == "test" else "train", row["_row"]] = {name: row[name] for name in sorted(names)}
    assert found == EXPECTED

    meta = read_meta(out)
    assert meta.bags == {
        "109_14": {"size": 2, "items": 7},  # 3 of a, 2 of c, 2 of the test part's a
        "110_14": {"size": 1, "items": 0},
        "150_14": {"size": 2, "items": 2},
        "210": {"size": 3, "items": 8},  # 1 of b, then 4 of rows 0, 1, 5; 3 of the test part
    }
    assert tuple(meta.fields) == FIELDS
    assert meta.fields["205"] == 1, "bags do not change what the fields are"
    places = pl.concat(data.values()).filter(pl.col("_row") < 2, pl.col("109_14_len") == 3)
    assert places.select("109_14_end", "109_14_len").unique().height == 1, "the rows of a user share one place"


def simulated(raw: Path) -> None:
    simulate(raw, train_rows=500, test_rows=200, rows_per_user=20)


@pytest.mark.parametrize(("block", "piece", "threads", "ahead", "ids"), [(2000, 500, 3, 1, 13), (1 << 22, 900, 2, 8, 1000)])
def test_the_result_does_not_depend_on_blocks_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, piece: int, threads: int, ahead: int, ids: int
) -> None:
    simulated(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "as is", min_count=3, bags=BAGS)
    for name, value in (("BLOCK", block), ("PIECE", piece), ("THREADS", threads), ("AHEAD", ahead)):
        monkeypatch.setattr(aliccp_rows, name, value)
    monkeypatch.setattr(aliccp_bags, "PIECE", ids)
    prepare(tmp_path / "raw", tmp_path / "cut", min_count=3, bags=BAGS[::-1])
    meta = read_meta(tmp_path / "cut")
    assert meta == read_meta(tmp_path / "as is")
    assert meta.checksum
    assert all(bag["items"] for bag in meta.bags.values())
    assert not (tmp_path / "cut" / ".spill").exists()


def test_without_bags_nothing_of_them_is_there(tmp_path: Path) -> None:
    simulated(tmp_path / "raw")
    for name, bags in (("without", ()), ("with", BAGS)):
        prepare(tmp_path / "raw", tmp_path / name, min_count=1, bags=bags)
    assert not (tmp_path / "without" / "bags").exists()
    assert read_meta(tmp_path / "without").bags == {}
    without, all_five = read_all(tmp_path / "without"), read_all(tmp_path / "with")
    assert set(without["train"].columns) == {*FIELDS, "click", "purchase", "_row"}
    for split in SPLITS:  # the other columns, the order of the rows and the truth are the same
        assert all_five[split].select(without[split].columns).equals(without[split])
        assert (tmp_path / "without" / "oracle" / f"{split}.parquet").read_bytes() == (
            tmp_path / "with" / "oracle" / f"{split}.parquet"
        ).read_bytes()


def test_the_loader_gives_the_ids_of_the_raw_files(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    simulated(raw)
    prepare(raw, out, min_count=2, split="random", bags=BAGS)
    splits, _, _, _ = slow(raw, 2, np.random.default_rng(2020).random, 0.1, BAGS)
    meta = read_meta(out)
    most = dict.fromkeys(BAGS, 9) | {"110_14": 1}
    dataset = {"name": "x", "fields": None, "tasks": ["click"], "histories": {}, "bags": most, "main_history": None}
    schema = chosen_schema({"dataset": dataset}, meta)
    assert [field.name for field in schema.fields] == [*FIELDS, *BAGS]
    for split in SPLITS:
        rows = sorted(splits[split], key=lambda row: row["_row"])
        numbers = read_all(out)[split]["_row"].to_numpy()
        place = np.searchsorted([row["_row"] for row in rows], numbers)
        batches = list(Stream(Shards(out, meta, schema, split), 64, histories=Histories(out, meta, schema)))
        for name in BAGS:
            read = [
                ids[:n].tolist()
                for batch in batches
                for ids, n in zip(batch.past[name], batch.past_len[name].tolist(), strict=True)
            ]
            assert read == [rows[i][name][-most[name] :] for i in place.tolist()]


def test_an_id_that_is_no_number_matters_only_where_it_is_asked_for(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    small_raw(raw)
    path = raw / "common_features_train.csv"
    path.write_text(path.read_text().replace("109_14\x023\x03", "109_14\x02three\x03"))
    prepare(raw, tmp_path / "without", min_count=1, bags=["210"])
    with pytest.raises(
        SeqmtlError, match=r"common_features_train.csv, line 1: the id of field 109_14 is 'three', it must be a num"
    ):
        prepare(raw, tmp_path / "with", min_count=1, bags=["109_14"])
    assert not (tmp_path / "with" / "meta.json").exists()
    prepare(raw, tmp_path / "skipped", min_count=1, bags=["109_14"], on_bad_line="skip")
    assert read_meta(tmp_path / "skipped").dropped == {"common_features: id": 1, "common_feature": 20}


@pytest.mark.parametrize(
    ("bags", "words"),
    [
        (["109_14", "109"], r"Ali-CCP has no multi-valued field 109; those it has are 109_14, 110_14, 127_14, 150_14, 210"),
        (["205", 101], "no multi-valued field 205, 101;"),
        ("210", r"must be a list like \[109_14,210\], not '210'"),
        (None, "must be a list"),
        (210, "must be a list"),
        ([True], "no multi-valued field True"),
    ],
)
def test_names_that_make_no_sense(tmp_path: Path, bags: Any, words: str) -> None:
    small_raw(tmp_path / "raw")
    with pytest.raises(SeqmtlError, match=f"dataset.prepare.bags.*{words}"):
        prepare(tmp_path / "raw", tmp_path / "out", bags=bags)
    assert not (tmp_path / "out").exists()


def test_names_as_yaml_reads_them() -> None:
    assert chosen_bags([210, 10914, "109_14"]) == ("109_14", "210")
    assert chosen_bags([]) == ()


def test_a_disk_too_small_for_bags_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "with", min_count=1, bags=BAGS)
    usage = namedtuple("usage", "total used free")
    for part_name in PARTS:
        (tmp_path / "raw" / f"oracle_{part_name}.parquet").unlink()
    size = sum(path.stat().st_size for path in (tmp_path / "raw").iterdir() if path.name.startswith("sample_skeleton"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, size))
    prepare(tmp_path / "raw", tmp_path / "without")
    with pytest.raises(SeqmtlError, match=r"needs about .* make room there"):
        prepare(tmp_path / "raw", tmp_path / "out", bags=BAGS)
    assert not (tmp_path / "out").exists()
