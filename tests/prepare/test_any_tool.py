"""docs/datasets.md, "Any tool can feed it": its examples write datasets that are right, are checked, and train."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from seqmtl import cli
from seqmtl.data.histories import Histories
from seqmtl.data.meta import read_meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.data.shards import Shards
from test_cli import seqmtl

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
TOOLS = ("duckdb", "polars")
ROWS = 2000


def examples() -> dict[str, str]:
    """The fenced files of the page, by the name in their first line."""
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """A log in no order; some users, items and cities come late."""
    rng = np.random.default_rng(0)
    time = np.arange(ROWS)
    late = time // (ROWS // 4)
    click = rng.random(ROWS) < 0.3
    rows = {
        "time": time * 10,
        "user_id": 1000 + rng.integers(0, 60 + 10 * late),
        "item_id": rng.zipf(1.5, ROWS) % (90 + 10 * late),
        "city": rng.choice(["Kyiv", "Oslo", "Lima"], ROWS),
        "click": click.astype(int),
        "buy": (click & (rng.random(ROWS) < 0.4)).astype(int),
    }
    rows["city"] = np.where(time > ROWS * 0.85, "Rome", rows["city"])
    return pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1)


@pytest.fixture(params=TOOLS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, log: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where log.csv was, and what the example made of it."""
    log.write_csv(tmp_path / "log.csv")
    page = examples()
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text(page["conf/dataset/mine.yaml"])
    monkeypatch.chdir(tmp_path)
    name = f"write_with_{request.param}.py"
    exec(compile(page[name], name, "exec"), {})
    return tmp_path


def test_the_example_writes_what_the_log_says(folder: Path, log: pl.DataFrame) -> None:
    """Against plain dicts: splits in time, ids of the training rows, histories of all that is older."""
    directory = folder / "data" / "mine"
    meta, flat = read_meta(directory), np.load(directory / "histories" / "clicked.npy")
    raw = log.sort("time").to_dicts()
    rows = {split: pl.read_parquet(directory / split / "*.parquet") for split in ("train", "valid", "test")}
    assert {split: len(frame) for split, frame in rows.items()} == meta.rows == {"train": 1600, "valid": 200, "test": 200}
    assert not rows["train"]["_row"].is_sorted()
    ids: dict[str, dict[Any, int]] = {}
    for name, size in meta.fields.items():
        known = sorted({row[name] for row in raw[:1600]})
        ids[name] = {value: i for i, value in enumerate(known, 1)}
        assert size == len(known) + 1
    past: dict[int, list[int]] = {}
    expected = []
    for row in raw:
        mine = past.setdefault(row["user_id"], [])
        expected.append(list(mine))
        if row["click"]:
            mine.append(ids["item_id"].get(row["item_id"], 0))
    for row in pl.concat(rows.values()).to_dicts():
        true = raw[row["_row"]]
        assert {name: row[name] for name in ids} == {name: of.get(true[name], 0) for name, of in ids.items()}
        assert (row["click"], row["buy"]) == (true["click"], true["buy"])
        assert flat[row["clicked_end"] - row["clicked_len"] : row["clicked_end"]].tolist() == expected[row["_row"]]
    assert 0 in rows["test"]["user_id"]
    assert 0 in rows["test"]["city"]


def test_it_is_valid_and_can_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compose: Any
) -> None:
    monkeypatch.setattr("sys.argv", ["seqmtl", "--config-dir", str(folder / "conf"), "dataset=mine", "check=true"])
    assert cli.run("prepare") == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    assert out.rstrip().endswith("data/mine is a valid dataset")
    meta = read_meta(folder / "data" / "mine")
    wanted = {"name": "mine", "tasks": ["click", "buy"], "fields": None, "main_history": "clicked", "bags": {}}
    schema = chosen_schema({"dataset": wanted | {"histories": {"clicked": {"max_len": 50}}}}, meta)
    read = Shards(folder / "data" / "mine", meta, schema, "valid").load()
    past, length = Histories(folder / "data" / "mine", meta, schema).gather(read)
    assert past["clicked"].shape[1] == length["clicked"].max() > 1


@pytest.mark.slow
def test_it_trains(folder: Path) -> None:
    done = seqmtl(folder, "--config-dir", "conf", "dataset=mine", "model=mmoe", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("outputs/mine/mmoe-bce-*/seed=1/metrics.json")
    assert json.loads(path.read_text())["test/auc/click"] is not None


def test_the_example_in_spark_is_python() -> None:
    compile(examples()["write_with_spark.py"], "write_with_spark.py", "exec")


def test_the_shortest_meta_json_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "meta.json").write_text(text)
    assert read_meta(tmp_path).schema().parents == (None, 0)
