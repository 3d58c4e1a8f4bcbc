"""`seqmtl bench`: its words, and a measurement through the command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqmtl.bench.measure import Measured
from seqmtl.bench.rows import RowMaker, write_rows
from seqmtl.bench.verb import Asked, composed_config, read_words
from seqmtl.errors import SeqmtlError
from seqmtl.shipped import conf_directory

ROWS = {"train": 500, "valid": 100, "test": 300}


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqmtl.cli", "bench", *words]
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )


def test_own_words_are_told_from_those_of_a_training() -> None:
    asked, words = read_words(["model=mmoe", "batches=7", "sizes=[5,6]", "json=a.json", "~dataset.user", "batch_size=3"])
    assert asked == Asked(batches=7, sizes=(5, 6), json=Path("a.json"))
    assert words == ["model=mmoe", "~dataset.user", "batch_size=3"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m"], "key=value only, not '-m'"),
        (["aitm"], "key=value only, not 'aitm'"),
        (["batches=0"], "batches must be a whole number of at least 1, not '0'"),
        (["repeats=two"], "repeats must be a whole number"),
        (["sizes=[5,0]"], "sizes must be whole numbers of at least 1"),
    ],
)
def test_bad_words_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        read_words(words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=lightgbm"], "no training loop of batches"),
        (["trainer=ddp"], "measures one process"),
        (["batch_size=0"], "batch_size must be an integer of at least 1"),
        (["model=din"], "reads histories"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        composed_config(words, [conf_directory()])


@pytest.fixture
def measured(tmp_path: Path, compose: Any) -> Any:
    """measured(warm_up, batches, "model=mmoe", …) → a fresh training on 500 rows."""
    meta = write_rows(tmp_path / "rows", RowMaker({"user": 40, "item": 30}, ("click", "purchase")), ROWS)

    def make(warm_up: int, batches: int | None, *words: str) -> Measured:
        return Measured(compose("batch_size=50", "trainer.threads=1", *words), tmp_path / "rows", meta, warm_up, batches)

    return make


def test_only_the_batches_after_the_warm_up_are_counted(measured: Any) -> None:
    for loop in (Measured.train, Measured.bare):
        timed = loop(measured(2, 3, "model=mmoe"))
        assert (timed.rows, timed.steps) == (150, 3)
        assert timed.rows_per_second == pytest.approx(150 / timed.seconds)
        assert timed.ms_per_step == pytest.approx(1000 * timed.seconds / 3)


def test_an_epoch_is_all_rows_and_its_inference_all_test_rows(measured: Any) -> None:
    one = measured(0, None, "model=aitm", "batch_size=64")
    assert (one.train().rows, one.clock.steps) == (500, 8)
    assert one.predict().rows == ROWS["test"]
    auc = one.stage.lit.test_metrics["test/auc/click"]
    assert auc is None or math.isfinite(auc)


def test_the_bare_loop_makes_the_weights_of_the_training_loop(measured: Any) -> None:
    trained, bare = measured(1, 4, "model=mmoe", "model.trunk.dropout=0.0"), measured(1, 4, "model=mmoe", "model.trunk.dropout=0.0")
    trained.train()
    bare.bare()
    ours, theirs = trained.stage.lit.model.state_dict(), bare.stage.lit.model.state_dict()
    assert all(ours[name].sub(theirs[name]).abs().max() < 1e-6 for name in ours)


@pytest.mark.slow
def test_a_config_is_measured_from_the_command_line(tmp_path: Path) -> None:
    small = ("sizes=[50,40,3]", "batches=3", "warm_up=1", "predict=400", "repeats=2", "batch_size=20", "trainer.threads=1")
    done = bench(tmp_path, "model=aitm", "tasks=3", *small, "json=out/found.json")
    assert done.returncode == 0, done.stderr
    assert "bare loop of the same step" in done.stdout
    found = json.loads((tmp_path / "out" / "found.json").read_text())
    assert (found["model"], found["optimizer"], found["vocabulary"], found["fields"]) == ("aitm", "adam", 93, 3)
    assert found["tasks"] == ["click", "purchase", "step3"]
    assert [one["rows"] for one in found["train"]["repeats"]] == [60, 60]
    assert [one["rows"] for one in found["predict"]["repeats"]] == [400, 400]
    for what in ("train", "bare", "predict"):
        assert 0 < found[what]["low"] <= found[what]["rows_per_second"] <= found[what]["high"]
    assert found["overhead"] > -1
    assert found["peak_mb"] > 50
    assert found["device_peak_mb"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing else is left


@pytest.mark.slow
def test_histories_are_made_too_and_prepared_data_are_read(tmp_path: Path, dataset: Path) -> None:
    words = ("batches=2", "warm_up=1", "predict=50", "repeats=1", "batch_size=10", "trainer.threads=1")
    done = bench(tmp_path, "model=din", "dataset=tenrec_sim", "sizes=[50,40]", *words)
    assert done.returncode == 0, done.stderr
    done = bench(tmp_path, "model=mmoe", f"data={dataset}", *words, "warm_up=200")
    assert done.returncode == 1
    assert "no more than the warm-up" in done.stderr
    assert "Traceback" not in done.stderr
