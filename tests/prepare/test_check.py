"""`seqmtl prepare check=true` names everything that is wrong with a dataset, and nothing that is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from check_damages import CONFIG, DAMAGES, ITEMS, T0, V1, WARNINGS, edit, edit_meta, lines, put, said, state, write_whole

from conftest import write_dataset
from seqmtl import cli
from seqmtl.prepare import check_row_numbers
from seqmtl.prepare.writer import DatasetWriter


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("whole") / "mine")


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data" / "mine"))


def test_a_good_dataset_passes_and_is_left_alone(mine: Path) -> None:
    before = state(mine.parent)
    printed, last = said(mine)
    assert last == f"{mine} is a valid dataset"
    assert lines(printed) == lines(printed, "warning") == []
    for word in ("mine, counted", "600", "check test: 300 rows", "past, mean length", "%)"):
        assert word in printed
    assert state(mine.parent) == before


def test_the_shortest_meta_json_passes(tmp_path: Path) -> None:
    printed, last = said(write_dataset(tmp_path / "mine"))
    assert last.endswith("is a valid dataset")
    assert "column 'click' is" not in printed


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_named(mine: Path, damage: str) -> None:
    do, words = DAMAGES[damage]
    do(mine)
    before = state(mine)
    printed, last = said(mine)
    assert state(mine) == before
    assert any(words in line for line in lines(printed)), printed
    n = len(lines(printed))
    assert f"{n} things are wrong with {mine}" in last if n > 1 else last.startswith("1 thing is wrong with")
    assert n <= 3, f"one damage is told as {n}: {printed}"


@pytest.mark.parametrize("oddity", WARNINGS)
def test_what_is_odd_but_right_is_a_warning(mine: Path, oddity: str) -> None:
    do, words = WARNINGS[oddity]
    do(mine)
    printed, last = said(mine)
    assert last.endswith("is a valid dataset"), printed
    assert [line for line in lines(printed, "warning") if words in line], printed


def test_no_positives_and_order_violations_that_were_kept_are_warnings(mine: Path) -> None:
    for i in (0, 1):
        edit(mine, f"valid/00{i}.parquet", lambda f: f.with_columns(click=pl.lit(0, pl.Int8)))
    edit_meta(mine, positives={}, statistics={"order_violations": {"purchase_without_click": 5}})
    edit(mine, "oracle/valid.parquet", put("purchase", 9, 0.6))
    printed, last = said(mine)
    assert last.endswith("is a valid dataset"), printed
    told = "\n".join(lines(printed, "warning"))
    assert "valid: every row has click = 0, so it has no AUC" in told
    assert "valid: purchase happens without click, its parent, kept by the converter on purpose" in told


def test_files_of_spark_do_no_harm(mine: Path) -> None:
    for name in ("_SUCCESS", "._SUCCESS.crc", ".000.parquet.crc"):
        (mine / "train" / name).touch()
    printed, last = said(mine)
    assert last.endswith("is a valid dataset")
    assert not lines(printed, "warning")


def test_many_row_groups_and_large_ones(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqmtl.prepare.check_files.MOST_ROWS", 100)
    monkeypatch.setattr("seqmtl.prepare.check_truth.BATCH", 64)
    for i in (0, 1):
        edit(mine, f"train/00{i}.parquet", lambda f: f, row_group_size=70)
    printed, last = said(mine)
    assert last.endswith("is a valid dataset"), printed
    told = "\n".join(lines(printed, "warning"))
    assert "train has" not in told
    assert "test has 2 row groups above 100 rows, the largest of 150" in told


def test_more_shards_than_a_process_may_open(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (10, 10))
    printed, last = said(mine)
    assert last.endswith("is a valid dataset")
    assert "a training opens 6 shards, but a process may open 10 files here" in "\n".join(lines(printed, "warning"))


def test_several_damages_are_all_named(mine: Path) -> None:
    edit(mine, T0, put("user", 7, 99))
    edit(mine, T0, put("user", 9, 99))
    edit(mine, "train/001.parquet", put("user", 0, -1))
    edit(mine, V1, lambda f: f.drop("click"))
    (mine / "test/001.parquet").write_bytes(b"PAR1")
    np.save(mine / "histories/past.npy", np.full(ITEMS, -1, np.int32))
    edit_meta(mine, version=7)
    printed, last = said(mine)
    told = "\n".join(lines(printed))
    for words in (
        "version is 7",
        f"train: ids of 'user' are outside of 0..39: 3 rows, the first is row 7 of {T0}, with 99",
        f"there is no column 'click' (int8): {V1}",
        "test/001.parquet is damaged",
        "past.npy: ids are outside of 0..29: 50 ids",
    ):
        assert words in told
    assert last.startswith(f"{len(lines(printed))} things are wrong")
    assert "positives" not in told, "counts of what cannot be read whole say nothing"


def test_many_findings_of_a_kind_are_cut(mine: Path) -> None:
    edit_meta(mine, shards={f"train/{i}.parquet": {"rows": 1, "bytes": 1} for i in range(50)})
    printed, last = said(mine)
    told = [line for line in lines(printed) if line.startswith("files: ")]
    assert len(told) == 21
    assert "more of this kind" in told[-1]
    assert int(last.split()[0]) > 50


POOR = '{"version": 1, "fields": {"a": 0}, "parents": {}, "rows": {"train": 1}}'
WRONG = '{"fields": [], "parents": {"a": 3}, "rows": {}, "histories": {"h": {}}}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "meta.json is missing"),
        ("{", "cannot be read as JSON"),
        ("[]", "must hold an object"),
        ('{"version": 1, "fields": {"a": 2}, "parents": {"click": null}}', "key 'rows' is missing"),
        (POOR, "fields: 'a' must be a whole number of at least 1, not 0"),
        (POOR, "parents is empty; name at least one task"),
        (POOR, "rows lacks the split test"),
        (WRONG, "fields must be an object, not []"),
        (WRONG, "parents: 'a' must be the name of a task or null, not 3"),
        (WRONG, "histories: 'h' must be {field, items}, not {}"),
    ],
)
def test_a_meta_json_that_nothing_can_be_read_by(mine: Path, text: str | None, words: str) -> None:
    (mine / "meta.json").unlink() if text is None else (mine / "meta.json").write_text(text)
    printed, last = said(mine)
    assert any(words in line for line in lines(printed)), printed
    assert "the shards were not looked at" in last


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert said(tmp_path / "mine")[1] == f"there is no {tmp_path / 'mine'}, so there is nothing to check.\nWritten by hand."


def test_the_yaml_must_fit_the_data(mine: Path) -> None:
    printed, last = said(mine, tasks=["click", "buy"])
    assert lines(printed) == ["the dataset's YAML: no task is named buy; the data have click, purchase"]
    assert last.startswith("1 thing is wrong")
    edit_meta(mine, options={"min_count": 1})
    printed, last = said(mine, prepare={"min_count": 2})
    assert last.endswith("is a valid dataset")
    assert "made with other options than this training asks for: min_count=1" in printed


def columns(n: int, start: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    drawn = {"f": rng.integers(0, 3, n), "click": rng.integers(0, 2, n), "_row": np.arange(start, start + n)}
    return drawn | {f"{name}_{what}": np.ones(n) for name in ("past", "words") for what in ("end", "len")}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A dataset of seqmtl's own writer."""
    directory = tmp_path / "mine"
    parents = {"click": None}
    writer = DatasetWriter(directory, ["f"], parents, {}, rows_per_shard=40, histories={"past": "f"}, bags=["words"])
    for s, split in enumerate(("train", "valid", "test")):
        writer.add(split, columns(100, 100 * s))
    writer.history("past", np.array([2]))
    writer.history("words", np.array([4]))
    writer.finish({"f": 3, "words": 5}, {})
    return directory


def test_the_checksum_is_taken_again(written: Path) -> None:
    printed, last = said(written, tasks=["click"])
    assert last.endswith("is a valid dataset"), printed
    edit(written, "train/part-00000.parquet", lambda f: f.with_columns(f=(3 - pl.col("f")) % 3))
    printed, _ = said(written, tasks=["click"])
    (line,) = lines(printed)
    assert line.startswith("checksum: of the data is ")
    np.save(written / "histories" / "past.npy", np.array([7], np.int32))
    (written / "valid" / "part-00000.parquet").unlink()
    assert "checksum: cannot be told, as not all of valid/part-00000.parquet can be read" in lines(
        said(written, tasks=["click"])[0]
    )


def scatter(directory: Path, rows: dict[str, Any]) -> Path:
    """A dataset with these row numbers in its splits, and ids that depend on them."""
    fields = {
        name: (np.concatenate(list(rows.values())).astype(np.uint64) * np.uint64(k)) for name, k in (("a", 7919), ("b", 104729))
    }
    at = 0
    for split, numbers in rows.items():
        here = slice(at, at := at + len(numbers))
        frame = pl.DataFrame({n: (v[here] % np.uint64(1000)).astype(np.int32) for n, v in fields.items()})
        frame = frame.with_columns(
            click=pl.Series(np.arange(len(numbers)) % 2, dtype=pl.Int8), _row=pl.Series(numbers, dtype=pl.Int64)
        )
        (directory / split).mkdir(parents=True)
        frame.write_parquet(directory / split / "0.parquet", row_group_size=17)
    counts = {split: len(numbers) for split, numbers in rows.items()}
    meta = {"version": 1, "fields": {"a": 1000, "b": 1000}, "parents": {"click": None}, "rows": counts}
    (directory / "meta.json").write_text(json.dumps(meta))
    return directory


@pytest.mark.parametrize("spread", [1, 1 << 40], ids=["near", "far apart"])
def test_row_numbers_in_any_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: int) -> None:
    monkeypatch.setattr(check_row_numbers, "PASS", 50)
    numbers = np.random.default_rng(0).permutation(np.arange(300)) * spread
    rows = {"train": numbers[:200], "valid": numbers[200:250], "test": numbers[250:]}
    printed, last = said(scatter(tmp_path / "good", rows), tasks=["click"])
    assert last.endswith("is a valid dataset"), printed
    twice = np.concatenate([numbers[:200], numbers[:30]])
    shared = np.concatenate([numbers[250:], numbers[:2]])
    printed, _ = said(scatter(tmp_path / "bad", rows | {"train": twice, "test": shared}), tasks=["click"])
    assert any(line.startswith("_row: train: 30 rows have a number that an earlier row has") for line in lines(printed)), printed
    assert "_row: 2 numbers stand in train and in test" in "\n".join(lines(printed, "warning"))


def test_splits_that_are_numbered_each_from_0_are_no_leak(tmp_path: Path) -> None:
    printed, last = said(write_dataset(tmp_path / "mine"))
    assert last.endswith("is a valid dataset")
    assert "_row" not in printed


def test_the_command_line_ends_with_1_where_something_is_wrong(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text(json.dumps(CONFIG | {"batch_size": 50}))

    def seqmtl(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["seqmtl", "--config-dir", str(tmp_path / "conf"), "dataset=mine", *words])
        return cli.run("prepare")

    data = f"data_dir={tmp_path / 'data'}"
    assert seqmtl(data, "check=true") == 0
    assert capsys.readouterr().out.rstrip().endswith(f"{mine} is a valid dataset")
    edit(mine, T0, put("user", 7, 99))
    assert seqmtl(data, "check=true") == 1
    shown = capsys.readouterr()
    assert "ids of 'user' are outside" in shown.out
    assert shown.err == f"seqmtl: 1 thing is wrong with {mine}\n"
    assert seqmtl(data) == 1
    assert "dataset.prepare of 'mine' names no converter: another tool writes it into" in capsys.readouterr().err
