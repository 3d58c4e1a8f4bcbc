"""One MLflow run per job, no point twice, and errors in words."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from seqmtl.errors import SeqmtlError
from seqmtl.mlflow_store import Store
from seqmtl.tracking import Tracker, flatten

TAGS = {"model": "m", "loss": "l", "dataset": "d", "seed": "1", "config_hash": "abcd1234", "git_commit": "c"}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, which MLflow takes seconds to make."""
    place = tmp_path_factory.mktemp("made")
    start(place, dataset="another").end("FINISHED")
    return place / "mlflow.db"


@pytest.fixture(autouse=True)
def database(tmp_path: Path, made: Path) -> None:
    shutil.copy(made, tmp_path)


def start(tmp_path: Path, **tags: str) -> Tracker:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text("model: {dim: 4}\n")
    return Tracker(tmp_path, run_dir, {"model": {"dim": 4, "parts": [1, 2]}, "seed": 1}, TAGS | tags)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": [1, 2], "d": {}}


def test_one_run_also_when_resumed(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.log({"train/loss": 2.0, "val/auc/x": None}, 20)
    first.flush()
    (tmp_path / "run" / "last.ckpt").touch()
    second = start(tmp_path)
    assert second.run_id == first.run_id == (tmp_path / "run" / "mlflow_run_id").read_text()
    for step, value in ((10, 3.0), (20, 2.0), (30, 1.0)):  # the resumed run computes the first two again
        second.log({"train/loss": value}, step)
    second.end("FINISHED")
    history = second.client.get_metric_history(first.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(10, 3.0), (20, 2.0), (30, 1.0)]
    run = second.client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "m/l/seed=1"
    assert run.data.params == {"model.dim": "4", "model.parts": "[1, 2]", "seed": "1"}
    assert {k: run.data.tags[k] for k in TAGS} == TAGS
    assert "val/auc/x" not in run.data.metrics
    assert [a.path for a in second.client.list_artifacts(first.run_id)] == ["config.yaml"]
    assert (tmp_path / "mlartifacts" / "d").is_dir()


def test_a_new_attempt_is_a_new_run(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.end("FAILED")
    assert start(tmp_path).run_id != first.run_id


def test_a_job_cut_off_before_its_first_checkpoint_goes_on_in_its_run(tmp_path: Path) -> None:
    cut_off = start(tmp_path)
    cut_off.log({"train/loss": 3.0}, 10)
    cut_off.flush()
    again = start(tmp_path)
    assert again.run_id == cut_off.run_id
    for step in (10, 20):
        again.log({"train/loss": 3.0}, step)
    again.flush()
    assert [point.step for point in again.client.get_metric_history(again.run_id, "train/loss")] == [10, 20], "none stands twice"


def test_a_database_of_a_newer_schema(tmp_path: Path) -> None:
    start(tmp_path).end("FINISHED")
    newer = tmp_path / "newer"  # another place: MLflow keeps the stores that it has opened
    newer.mkdir()
    shutil.copy(tmp_path / "mlflow.db", newer)
    with contextlib.closing(sqlite3.connect(newer / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    with pytest.raises(SeqmtlError, match=r"another version of MLflow; .*mlflow db upgrade"):
        start(newer)


def test_another_directory_on_the_same_server_has_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    first = start(tmp_path)
    (tmp_path / "other").mkdir()
    second = start(tmp_path / "other")
    assert second.run_id != first.run_id
    assert first.client.get_run(first.run_id).info.status == "RUNNING", "not ended by the other"


def test_files_of_a_table_are_a_run_of_their_own_and_the_same_numbers_once(tmp_path: Path) -> None:
    files = [tmp_path / "table.csv", tmp_path / "table.md"]
    for path in files:
        path.write_text(path.name)
    store = Store(tmp_path)
    for numbers in (b"1", b"1", b"2"):
        store.put_files("tables", "aitm_table2", {"table": "aitm_table2"}, numbers, files)
    experiment = store.client.get_experiment_by_name("tables")
    runs = store.client.search_runs([experiment.experiment_id])
    assert [(run.info.run_name, run.info.status) for run in runs] == [("aitm_table2", "FINISHED")] * 2
    assert sorted(a.path for a in store.client.list_artifacts(runs[0].info.run_id)) == ["table.csv", "table.md"]
