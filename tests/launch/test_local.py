"""Processes of a sweep: nothing is left behind, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LONG = ("batch_size=2", "trainer.max_epochs=1000", "trainer.patience=1000", "trainer.checkpoint_every=20")


def alive(folder: Path) -> list[str]:
    """Command lines of the processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and (process / "status").read_text().split("State:\t")[1][0] != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "seqmtl.cli", *words, *LONG]
    return subprocess.Popen(command, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_training(folder: Path) -> None:
    for _ in range(1200):
        time.sleep(0.1)
        if any("epoch 1/" in log.read_text() for log in folder.glob("outputs/*/*/*/job.log")):
            return
    raise AssertionError("no training began")


def status(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("outputs/*/*/*/status.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("-m", "seed=1,2"), ("trainer=ddp", "trainer.accelerator=cpu", "trainer.threads=1")],
    ids=["sweep", "two ranks"],
)
def test_nothing_is_left_behind_a_killed_command(tmp_path: Path, dataset: Path, words: tuple[str, ...]) -> None:
    process = start(tmp_path, *words)
    try:
        wait_for_training(tmp_path)
        assert len(alive(tmp_path)) > 1
    finally:
        process.kill()
        process.communicate()
    for _ in range(50):
        time.sleep(0.1)
        if not alive(tmp_path):
            break
    assert alive(tmp_path) == []
    assert status(tmp_path)["state"] == "running"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("seed=1",), ("-m", "seed=1,2")], ids=["single", "sweep"])
def test_ctrl_c_stops_with_a_word(tmp_path: Path, dataset: Path, words: tuple[str, ...]) -> None:
    process = start(tmp_path, *words)
    try:
        wait_for_training(tmp_path)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    assert alive(tmp_path) == []
    assert status(tmp_path)["state"] == "running", "to be gone on with, not failed"
