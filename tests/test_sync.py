"""`seqmtl sync`, and what a command says when MLflow did not get everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqmtl import job, sync
from seqmtl.cli import take_verb
from seqmtl.errors import SeqmtlError
from seqmtl.mlflow_store import Store
from seqmtl.runs import Run

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def kept(plan: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of a job that was finished while MLflow was away all the time; it is back now."""
    from seqmtl import mlflow_store

    run_dir = plan("model=mmoe")
    with monkeypatch.context() as away:

        def refuse(self: Any) -> Any:
            raise mlflow_store.Away(f"MLflow at {self.name} cannot be reached")

        away.setattr(mlflow_store.Store, "_connect", refuse)
        job.run(run_dir)
    return run_dir


def points(output: Path) -> dict[str, list[int]]:
    """{metric: its steps} of the only MLflow run."""
    client = Store(output).client
    (run,) = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    assert run.info.status == "FINISHED"
    return {key: sorted(m.step for m in client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics}


def test_what_was_kept_is_sent_once(kept: Path, plan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(kept).status()["state"] == "finished"
    assert not (kept / "mlflow_run_id").exists()
    assert sync.run([str(kept.parent)]) == 0
    assert "run: sent" in capsys.readouterr().out
    undisturbed = plan("model=mmoe", name="undisturbed")
    job.run(undisturbed)
    assert points(kept.parent) == points(undisturbed.parent)
    assert sync.run([str(kept.parent)]) == 0
    out = capsys.readouterr().out
    assert "1 had nothing to send" in out
    assert "sent 0" not in out


def test_it_does_not_disturb_a_run_that_is_being_trained(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in kept.glob("mlflow*")}
    with Run(kept).lock():
        assert sync.run([str(kept.parent)]) == 1
    assert "another process is running" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in kept.glob("mlflow*")} == before


def test_another_address_than_in_training_is_refused(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    assert sync.run([str(kept.parent)]) == 1
    out = capsys.readouterr().out
    assert f"waits for MLflow at sqlite:///{kept.parent}/mlflow.db, but this would go to {NOBODY}" in out
    assert "1 still waits" in out


def test_the_rest_is_told_with_the_command_that_sends_it(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sync.send_rest(kept.parent, [kept]) == "", "it is there again"
    assert points(kept.parent)
    (kept / "mlflow.sent").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    line = sync.send_rest(kept.parent, [kept])
    assert line == f"1 run waits for MLflow; when it is there: seqmtl sync {kept.parent}"


@pytest.mark.parametrize(
    ("words", "says"),
    [(["nowhere"], "there is no directory"), (["."], "there are no runs in")],
)
def test_bad_input_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SeqmtlError, match=says):
        sync.run(words)


def test_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    assert take_verb(["seqmtl", "sync", "outputs"]) == "sync"
    monkeypatch.setenv("COMP_LINE", "seqmtl sync out")
    assert take_verb(["seqmtl"]) == "train", "a press of TAB sends nothing"
    monkeypatch.delenv("COMP_LINE")
    done = subprocess.run([sys.executable, "-m", "seqmtl.cli", "sync", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "output_dir" in done.stdout
