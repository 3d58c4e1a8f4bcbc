"""MLflow that is away, locked, or refuses: nothing lost, nothing twice, and words."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from seqmtl import tracking
from seqmtl.errors import SeqmtlError
from seqmtl.journal import Journal
from seqmtl.mlflow_store import Store
from seqmtl.tracking import Tracker

TAGS = {"model": "m", "loss": "l", "dataset": "d", "seed": "1", "config_hash": "abcd1234", "git_commit": "c"}
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PAUSE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def database(tmp_path: Path, mlflow_database: Path) -> None:
    shutil.copy(mlflow_database, tmp_path)


def start(tmp_path: Path, **tags: str) -> Tracker:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text("model: {dim: 4}\n")
    return Tracker(tmp_path, run_dir, {"model": {"dim": 4}, "seed": 1}, TAGS | tags)


class Switch:
    """Takes MLflow away from a tracker, and gives it back: calls fail before they arrive, or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mlflow import MlflowClient

        self.fails = ""
        for name in ("log_batch", "set_terminated", "create_run", "get_run", "search_runs", "get_experiment_by_name"):
            monkeypatch.setattr(MlflowClient, name, self._switched(getattr(MlflowClient, name)))

    def _switched(self, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.fails == "before":
                raise ConnectionError("gone")
            result = real(*args, **kwargs)
            if self.fails == "after":
                raise ConnectionError("gone")
            return result

        return call


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    return Switch(monkeypatch)


def only_run(tmp_path: Path) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The one MLflow run of the default database, and its points."""
    client = Store(tmp_path).client
    (run,) = client.search_runs([client.get_experiment_by_name("d").experiment_id])
    return run, {
        key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics
    }


@pytest.mark.parametrize("fails", ["before", "after"])
def test_away_in_the_middle_loses_nothing_and_sends_nothing_twice(tmp_path: Path, switch: Switch, fails: str) -> None:
    tracker = start(tmp_path)
    tracker.log({"train/loss": 3.0}, 10)
    tracker.flush()
    switch.fails = fails
    tracker.log({"train/loss": 2.0, "val/auc/x": 0.7}, 20)
    tracker.flush()
    assert tracker.waits
    tracker.log({"train/loss": 1.0}, 30)
    switch.fails = ""
    tracker.end("FINISHED")
    assert not tracker.waits
    run, points = only_run(tmp_path)
    assert points == {"train/loss": [(10, 3.0), (20, 2.0), (30, 1.0)], "val/auc/x": [(20, 0.7)]}
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("fails", ["before", "after"])
def test_away_from_the_start_and_resumed_is_one_whole_run(tmp_path: Path, switch: Switch, fails: str) -> None:
    switch.fails = fails
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.flush()
    assert first.run_id == ""
    (tmp_path / "run" / "last.ckpt").touch()  # killed here, and begun again when MLflow is there
    switch.fails = ""
    second = start(tmp_path)
    for step, value in ((10, 3.0), (20, 2.0)):
        second.log({"train/loss": value}, step)
    second.end("FINISHED")
    run, points = only_run(tmp_path)
    assert points == {"train/loss": [(10, 3.0), (20, 2.0)]}
    assert run.data.params == {"model.dim": "4", "seed": "1"}
    assert {k: run.data.tags[k] for k in TAGS} == TAGS
    assert run.info.run_id == second.run_id == (tmp_path / "run" / "mlflow_run_id").read_text()
    assert [a.path for a in second.client.list_artifacts(second.run_id)] == ["config.yaml"]


def test_a_kill_between_sending_and_noting_it(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.flush()
    noted = (tmp_path / "run" / "mlflow.sent").read_bytes()
    first.log({"train/loss": 2.0}, 20)
    first.flush()
    for note in (noted, b"", b'{"server": 1}'):  # behind, and lost with the machine
        (tmp_path / "run" / "mlflow.sent").write_bytes(note)
        (tmp_path / "run" / "last.ckpt").touch()
        again = start(tmp_path)
        again.flush()
        assert again.run_id == first.run_id
        assert only_run(tmp_path)[1] == {"train/loss": [(10, 3.0), (20, 2.0)]}


def test_a_line_torn_by_a_kill_is_computed_again(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.flush()
    with (tmp_path / "run" / "mlflow.jsonl").open("a") as file:
        file.write('{"metric": "train/loss", "value": 2.0, "st')
    (tmp_path / "run" / "last.ckpt").touch()
    second = start(tmp_path)
    second.log({"train/loss": 2.0}, 20)
    second.end("FINISHED")
    assert only_run(tmp_path)[1] == {"train/loss": [(10, 3.0), (20, 2.0)]}
    assert not second.waits


def test_an_attempt_that_could_not_be_sent_is_sent_by_the_next(tmp_path: Path, switch: Switch) -> None:
    switch.fails = "before"
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.flush()
    switch.fails = ""
    attempt = tmp_path / "run" / "attempt-1"
    attempt.mkdir()
    for name in ("mlflow.jsonl", "mlflow.sent"):
        (tmp_path / "run" / name).rename(attempt / name)
    second = start(tmp_path)  # anew, as on other data
    client = second.client
    runs = client.search_runs([client.get_experiment_by_name("d").experiment_id])
    assert sorted(run.info.status for run in runs) == ["KILLED", "RUNNING"]
    killed = next(run for run in runs if run.info.status == "KILLED")
    assert killed.data.metrics == {"train/loss": 3.0}


def test_points_that_another_server_has_not_go_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(tmp_path)
    first.log({"train/loss": 3.0}, 10)
    first.flush()
    (tmp_path / "run" / "last.ckpt").touch()
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "other.db")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("delete from metrics")
        other.execute("delete from latest_metrics")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    second = start(tmp_path)
    assert [m.step for m in second.client.get_metric_history(second.run_id, "train/loss")] == [10]


def test_a_run_that_is_gone_from_the_server_is_made_again(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.log({"train/loss": 3.0}, 10)
    tracker.flush()
    gone = tracker.run_id
    tracker.client.delete_run(gone)
    tracker.log({"train/loss": 2.0}, 20)
    tracker.flush()  # refused: what is deleted takes nothing
    tracker.end("FINISHED")
    assert tracker.run_id != gone
    assert only_run(tmp_path)[1] == {"train/loss": [(10, 3.0), (20, 2.0)]}


def test_a_pause_after_a_failure(tmp_path: Path, switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PAUSE_SECONDS", 1000.0)
    tracker = start(tmp_path)
    switch.fails = "before"
    tracker.log({"a": 1.0}, 1)
    tracker.flush()
    switch.fails = ""
    tracker.log({"a": 2.0}, 2)
    tracker.flush()
    assert tracker.waits, "not tried again so soon"
    tracker.end("FINISHED")
    assert not tracker.waits, "tried at the end"


@pytest.mark.slow
def test_a_locked_database_is_a_delay(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    other.execute("begin exclusive")
    tracker.log({"train/loss": 3.0}, 10)
    tracker.flush()
    assert tracker.waits
    other.close()
    tracker.end("FINISHED")
    assert only_run(tmp_path)[1] == {"train/loss": [(10, 3.0)]}


class Refuses(BaseHTTPRequestHandler):
    """A server behind a proxy that knows nobody."""

    def do_GET(self) -> None:
        self.send_response(int(self.server.status))  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def refusing() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_a_refusal_is_told_at_once_and_leaves_no_journal(
    tmp_path: Path, refusing: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    refusing.status = status
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Hidden-word@127.0.0.1:{refusing.server_port}")
    if status == 503:
        assert start(tmp_path).waits, "a delay"
        return
    with pytest.raises(SeqmtlError, match=r"fails .*; see MLFLOW_TRACKING_URI") as error:
        start(tmp_path)
    assert "Hidden" not in str(error.value)
    assert not list((tmp_path / "run").glob("mlflow*"))


@pytest.mark.parametrize(
    "uri", ["htp://127.0.0.1", "http://", "localhost:5000", "http://[bad", "./mlruns", "postgresqll://u:p@h/d"]
)
def test_a_malformed_address_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SeqmtlError, match=r"MLflow at .* (fails|needs)"):
        start(tmp_path)


def test_a_deleted_experiment_is_told_at_once(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.end("FAILED")
    tracker.client.delete_experiment(tracker.client.get_experiment_by_name("d").experiment_id)
    with pytest.raises(SeqmtlError, match="experiment 'd' was deleted; bring it back"):
        start(tmp_path)


def test_a_refusal_does_not_end_a_job_that_goes_on(tmp_path: Path) -> None:
    """Its checkpoints would be put aside as those of a failed job."""
    tracker = start(tmp_path)
    (tmp_path / "run" / "last.ckpt").touch()
    tracker.client.delete_experiment(tracker.client.get_experiment_by_name("d").experiment_id)
    (tmp_path / "run" / "mlflow.sent").unlink()
    again = start(tmp_path)
    again.log({"a": 1.0}, 1)
    again.end("FINISHED")
    assert again.waits


def test_the_journal_is_read_with_its_unreadable_lines_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.jsonl").write_text('{"run": {"key": "k"}}\n{"met\n' + json.dumps({"metric": "a"}) + "\n")
    journal = Journal(tmp_path)
    assert [entry for entry, _ in journal.read()] == [{"run": {"key": "k"}}, {"metric": "a"}]
    assert "cannot be read" in caplog.text
    assert [end for _, end in journal.read()][-1] == journal.size
