"""The command line as a user meets it: processes, their output and their exit status."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqmtl.cli import take_verb
from seqmtl.errors import SeqmtlError

SMALL = ("trainer=debug", "batch_size=50", "trainer.max_batches=4")


def seqmtl(folder: Path, *words: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqmtl.cli", *words]
    clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR")}
    return subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("words", [("--help",), ("prepare", "--help"), ("--cfg", "job"), ("model=apem", "--cfg", "job")])
def test_what_there_is_is_told_at_once(tmp_path: Path, words: tuple[str, ...]) -> None:
    seconds = []
    for _ in range(2):  # the first may compile and read from a cold disk
        started = time.perf_counter()
        done = seqmtl(tmp_path, *words)
        seconds.append(time.perf_counter() - started)
    assert done.returncode == 0, done.stderr
    assert "dataset" in done.stdout
    assert min(seconds) < 1.0 or "CI" not in os.environ, seconds


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("trane",), "no verb 'trane'"),
        (("modle=mmoe",), "Could not override 'modle'"),
        (("model=mmo",), "Could not find 'model/mmo'"),
        (("trainer.max_epoch=3",), "Key 'max_epoch' is not in struct"),
        (("seed=one",), "seed must be an integer of at least 0, not 'one'"),
        (("seed=1.5",), "seed must be an integer"),
        (("batch_size=0",), "batch_size must be an integer of at least 1"),
        (("dataset=aliccp",), "dataset 'aliccp' is not prepared"),
        (("dataset.tasks=[click,sale]",), "no task is named sale; the data have click, purchase"),
        (("dataset.fields=[user,colour]",), "dataset.fields names colour"),
        (("model.trunk.colour=1",), "colour"),
    ],
)
def test_bad_input_is_told_in_words(tmp_path: Path, dataset: Path, words: tuple[str, ...], says: str) -> None:
    done = seqmtl(tmp_path, *words)
    assert done.returncode != 0
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "seqmtl.cli", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "seqmtl.errors" in imported
    assert not imported & {"torch", "lightning", "mlflow", "polars", "pyarrow", "pandas"}


def test_help_tells_all_groups_also_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "homemade.yaml").touch()
    said = seqmtl(tmp_path, "--config-dir", "mine", "--help").stdout
    for word in ("homemade", "aitm", "model/bottom", "experiment", "kuairand", "batch_size", "--cfg job", "seqmtl prepare"):
        assert word in said
    said = seqmtl(tmp_path, "prepare", "--help").stdout
    assert "overwrite" in said
    assert "model/bottom" not in said


@pytest.mark.parametrize(
    ("words", "verb", "left"),
    [
        ([], "train", []),
        (["model=mmoe", "-m", "seed=1,2"], "train", ["-m", "model=mmoe", "seed=1,2"]),
        (["a=1", "--multirun", "b=2,3", "c=4"], "train", ["--multirun", "a=1", "b=2,3", "c=4"]),
        (["prepare", "dataset=kuairand"], "prepare", ["dataset=kuairand"]),
        (["--help"], "train", ["--help"]),
    ],
)
def test_the_verb_is_taken_and_m_may_stand_anywhere(words: list[str], verb: str, left: list[str]) -> None:
    argv = ["seqmtl", *words]
    assert take_verb(argv) == verb
    assert argv == ["seqmtl", *left]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config-dir", "x", "prepare"], "the verb comes first: seqmtl prepare"),
        (["prepare", "-m", "dataset=a,b"], "one dataset at a time"),
        (["fly"], "no verb 'fly'; there are train, prepare"),
    ],
)
def test_a_verb_in_the_wrong_place(words: list[str], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        take_verb(["seqmtl", *words])


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("seqmtl model=ap", "model=apem"),
        ("seqmtl prepare dataset=kua", "dataset=kuairand"),
        ("seqmtl prepare overw", "overwrite="),
        ("seqmtl bench model=ap", "model=apem"),
    ],
)
def test_the_shell_completes(tmp_path: Path, line: str, offers: str) -> None:
    done = seqmtl(tmp_path, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), COMP_CWORD="1")
    assert offers in done.stdout.split()


def test_debug_shows_where(tmp_path: Path, dataset: Path) -> None:
    assert "Traceback" in seqmtl(tmp_path, "seed=one", "debug=true").stderr


def test_a_dataset_that_is_not_prepared_is_told_in_under_five_seconds(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = seqmtl(tmp_path, "model=apem", "dataset=aliccp")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # not the clock: other tests run beside
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    for part in ("tianchi.aliyun.com", "seqmtl prepare dataset=aliccp", "seqmtl prepare dataset=aliccp_sim"):
        assert part in done.stderr


@pytest.mark.slow
def test_a_sweep_from_end_to_end(tmp_path: Path, dataset: Path) -> None:
    words = ("-m", "model=mmoe,aitm", "seed=1,2", *SMALL)
    done = seqmtl(tmp_path, *words, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 jobs finished" in done.stdout
    runs = sorted((tmp_path / "outputs" / "aliccp_sim").glob("*/seed=*"))
    assert len(runs) == 4
    for run in runs:
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
        assert json.loads((run / "metrics.json").read_text())["test/auc/click"] > 0
    again = seqmtl(tmp_path, *words)
    assert "4 finished before, 0 to run" in again.stdout
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    assert sorted(r.info.run_name for r in found) == [f"{m}/seed={s}" for m in ("aitm/calibrated", "mmoe/bce") for s in (1, 2)]
    assert all(r.info.status == "FINISHED" and r.data.tags["sweep"] for r in found)


@pytest.mark.slow
def test_a_failed_job_does_not_stop_a_sweep(tmp_path: Path, dataset: Path) -> None:
    done = seqmtl(tmp_path, "-m", "model=mmoe", "optimizer.lr=1e-3,1e20", "seed=1,x", *SMALL, timeout=300)
    assert done.returncode == 1
    assert "1 of 4 jobs finished" in done.stdout
    assert "seed must be an integer" in done.stderr
    assert "diverged" in done.stderr
    failed = [p for p in (tmp_path / "outputs").glob("*/*/seed=1") if (p / "error.txt").exists()]
    assert len(failed) == 1
    status = json.loads((failed[0] / "status.json").read_text())
    assert status["state"] == "failed"
    assert "diverged" in status["error"]
