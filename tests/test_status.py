"""`seqmtl status`: every state, nothing changed, and nothing that it stumbles over."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from seqmtl import status
from seqmtl.errors import SeqmtlError
from seqmtl.progress import Progress, job_log
from seqmtl.runs import Run, run_directory
from seqmtl.status import entries
from test_lock import HOLDER

Make = Callable[..., Run]

KEYS = {"path", "dataset", "label", "model", "loss", "step", "seed", "state", "time", "owner", "heartbeat_seconds", "progress"}
KEYS |= {"metrics", "error", "mlflow_run_id"}


@pytest.fixture
def make(tmp_path: Path, compose: Any) -> Make:
    """make("running", "seed=2", …) → a run in outputs/ of which status.json says so."""

    def made(said: str, *overrides: str, **more: Any) -> Run:
        config = compose(*overrides) | {"output_dir": str(tmp_path / "outputs")}
        run = Run(run_directory(config))
        run.path.mkdir(parents=True)
        (run.path / "config.yaml").write_text(yaml.safe_dump(config))
        if said:
            (run.path / ".lock").touch()
            run.write_status(said, data_version="v1", **more)
        return run

    return made


@pytest.fixture
def all_states(make: Make) -> Iterator[Path]:
    """One run of each state; the process that holds the running one."""
    make("")
    finished = make("finished", "seed=2")
    (finished.path / "metrics.json").write_text('{"val/auc/click": 0.6, "test/auc/click": 0.75, "test/auc/purchase": null}')
    (finished.path / "mlflow_run_id").write_text("0123456789abcdef")
    make("failed", "seed=3", error="ValueError: out of [luck]\nsecond line")
    make("running", "seed=4")
    make("interrupted", "seed=5", reason="time limit of 2 h")
    running = make("running", "seed=6")
    command = [sys.executable, "-c", HOLDER, str(running.path), "600"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield running.path.parents[2]
    finally:
        holder.kill()
        holder.communicate()


def snapshot(directory: Path) -> dict[str, tuple[int, int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino, p.stat().st_size) for p in [directory, *directory.rglob("*")]}


def test_each_run_is_told_with_its_state_and_nothing_is_changed(all_states: Path) -> None:
    before = snapshot(all_states)
    found = {entry["seed"]: entry for entry in entries(all_states)}
    assert snapshot(all_states) == before
    states = {1: "new", 2: "finished", 3: "failed", 4: "interrupted", 5: "interrupted", 6: "running"}
    assert {seed: entry["state"] for seed, entry in found.items()} == states
    assert all(entry.keys() == KEYS for entry in found.values())
    assert {(e["dataset"], e["label"], e["model"], e["loss"], e["step"]) for e in found.values()} == {
        ("aliccp_sim", "shared_bottom/bce", "shared_bottom", "bce", "plain")
    }
    assert found[2]["metrics"] == {"val/auc/click": 0.6, "test/auc/click": 0.75, "test/auc/purchase": None}
    assert found[2]["mlflow_run_id"] == "0123456789abcdef"
    assert found[3]["error"] == "ValueError: out of [luck]"
    assert found[4]["error"] is None
    assert found[5]["error"] == "time limit of 2 h"
    assert found[6]["owner"]["purpose"] == "training"
    assert 0 <= found[6]["heartbeat_seconds"] < 600
    assert [e["owner"] for e in found.values() if e["state"] != "running"] == [None] * 5
    (one,) = entries(Path(found[3]["path"]))
    assert one == found[3], "a run directory itself may be named"


def test_a_killed_process_is_interrupted_at_once(make: Make) -> None:
    run = make("")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path), "600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert [e["state"] for e in entries(run.path)] == ["running"]
    finally:
        holder.kill()
        holder.communicate()
    assert [e["state"] for e in entries(run.path)] == ["interrupted"]


def test_the_command_prints_the_same_as_a_table_and_as_json(all_states: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "seqmtl.cli", "status", "--json"],
        cwd=all_states.parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert [e["seed"] for e in json.loads(done.stdout)] == [6, 4, 5, 3, 1, 2]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "lightning", "mlflow", "polars", "pyarrow", "hydra"}
    assert status.main([str(all_states)]) == 0
    said = capsys.readouterr().out
    for words in ("test click 0.7500, purchase undefined", "aliccp_sim shared_bottom/bce seed=6", "01234567", "time limit of 2 h"):
        assert words in said
    assert "failed: aliccp_sim shared_bottom/bce seed=3: ValueError: out of [luck]\n" in said
    assert said.splitlines()[-1] == "6 runs: 1 running, 2 interrupted, 1 failed, 1 not started, 1 finished"


def test_a_narrow_terminal_loses_nothing(all_states: Path) -> None:
    out = Console(width=60, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    out.print(status._table(entries(all_states)))
    lines = out.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    cells = [line.split("│") for line in lines if line.startswith("│")]
    runs = "".join(row[2].strip() for row in cells)
    assert [seed for seed in range(1, 7) if f"seed={seed}" in runs] == [1, 2, 3, 4, 5, 6]
    assert "…" not in "".join(lines)


def test_how_far_a_run_is_comes_from_its_own_log(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("running", "model=man")
    with job_log(run.path):
        progress = Progress("none", rows=100, max_epochs=3, prefix="meta/")
        progress.epoch_started(0, 10, 0)
        progress.validated({"val/auc/click": 0.61, "val/auc/purchase": None, "val/logloss/click": 0.3}, 10, 0)
        monkeypatch.setattr("seqmtl.progress.SECONDS_BETWEEN_LINES", 0.0)
        progress.epoch_started(1, 10, 0)
        time.sleep(0.001)
        progress.trained({"train/loss": 0.5}, 15, 5)
        logging.getLogger("seqmtl").info("a line\nof two")
    (entry,) = entries(run.path)
    assert entry["progress"] == "a line"
    assert entry["metrics"] == {"meta/val/auc/click": 0.61, "meta/val/auc/purchase": None}
    log = run.path / "job.log"
    log.write_text("x\n" * 100_000 + log.read_text().replace("a line\nof two", "\x1b[2Jepoch 9"))
    (entry,) = entries(run.path)
    assert entry["progress"] == " [2Jepoch 9", "nothing moves the cursor"


def test_runs_of_one_label_are_told_apart(make: Make) -> None:
    make("failed", "model.dim=8", "seed=1")
    make("failed", "model.dim=8", "seed=2")
    run = make("failed", "model.dim=16", "seed=1")
    labels = [entry["label"] for entry in entries(run.path.parents[2])]
    assert labels == ["shared_bottom/bce dim=16", *["shared_bottom/bce dim=8"] * 2]


DAMAGE = (
    b"",
    b"\xff\xfe\x00",
    b"[1, 2]",
    b'"text"',
    b'{"state": "run',
    b"{a: [",
    b"null",
    b"{}",
    b'{"state": ["x"], "dataset": 3}',
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_no_obstacle(make: Make, capsys: pytest.CaptureFixture[str], damage: bytes) -> None:
    names = ("config.yaml", "status.json", "metrics.json", "job.log", "mlflow_run_id", ".lock")
    for seed, name in enumerate(names, 1):
        run = make("finished" if name == "metrics.json" else "running", f"seed={seed}")
        (run.path / name).write_bytes(damage)
    everything = make("running", "seed=99")
    for name in names:
        (everything.path / name).write_bytes(damage)
    output = everything.path.parents[2]
    found = {entry["seed"]: entry["state"] for entry in entries(output)}
    tested = "finished" if damage.startswith(b'{"state": [') else "interrupted"  # whole, whatever it says
    assert found == {1: "interrupted", 2: "new", 3: tested, 4: "interrupted", 5: "interrupted", 6: "interrupted", 99: "new"}
    assert status.main([str(output)]) == 0
    assert "7 runs" in capsys.readouterr().out


def test_directories_that_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = tmp_path / "mlartifacts" / "aliccp_sim" / "0123" / "artifacts"
    artifact.mkdir(parents=True)
    (artifact / "config.yaml").write_text("a: 1")
    assert status.main([str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert status.main([str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    with pytest.raises(SeqmtlError, match=r"there is no directory .*seqmtl status OUTPUT_DIR"):
        status.main([str(tmp_path / "nothing")])


@pytest.mark.slow
def test_a_thousand_runs_are_told_in_a_moment(make: Make) -> None:
    run = make("finished")
    text = (run.path / "config.yaml").read_text()
    (run.path / "metrics.json").write_text('{"test/auc/click": 0.75}')
    for number in range(999):
        other = Run(run.path.parents[1] / f"shared_bottom-bce-{number // 5:08x}" / f"seed={number}")
        other.path.mkdir(parents=True)
        (other.path / "config.yaml").write_text(text)
        for name in ("status.json", "metrics.json", ".lock"):
            (other.path / name).write_bytes((run.path / name).read_bytes())
    started = time.process_time()  # not the clock: other tests run beside
    assert len(entries(run.path.parents[2])) == 1000
    assert time.process_time() - started < 4
