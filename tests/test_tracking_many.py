"""Eight jobs at once on a database that does not exist yet, writers killed inside, and a real server that goes away."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# One job: the same points whenever it is begun again, as a resumed training gives.
WRITER = """
import sys, time
from pathlib import Path
from seqmtl import tracking
tracking.PAUSE_SECONDS = 0.0
place, seed, steps, pause = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
run_dir = place / f"seed={seed}"
run_dir.mkdir(exist_ok=True)
(run_dir / "config.yaml").write_text("seed: 1")
tags = {"model": "m", "loss": "l", "dataset": "d", "seed": seed, "config_hash": "abcd1234", "git_commit": "c"}
tracker = tracking.Tracker(place, run_dir, {"seed": seed}, tags)
(run_dir / "last.ckpt").touch()
print("begun", flush=True)
for step in range(1, steps + 1):
    tracker.log({f"metric_{i}": step + i / 10 for i in range(10)}, step)
    if step % 5 == 0:
        tracker.flush()
        time.sleep(pause)
    while step == steps // 2 and (place / "hold").exists():
        time.sleep(0.1)
tracker.end("FINISHED")
sys.exit(1 if tracker.waits else 0)
"""


def begin(place: Path, seed: int, steps: int, pause: float = 0.0, **env: str) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", WRITER, str(place), str(seed), str(steps), str(pause)]
    return subprocess.Popen(command, env=clean | env, stdout=subprocess.PIPE, text=True)


def all_points(uri: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{seed: {metric: points}}; every run is finished, and there is one for each seed."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found: dict[str, Any] = {}
    for run in client.search_runs([client.get_experiment_by_name("d").experiment_id]):
        assert run.info.status == "FINISHED"
        seed = run.data.tags["seed"]
        assert seed not in found, "two runs of one job"
        histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        found[seed] = {key: sorted((m.step, m.value) for m in history) for key, history in histories.items()}
    return found


def expected(steps: int) -> dict[str, list[tuple[int, float]]]:
    return {f"metric_{i}": [(step, step + i / 10) for step in range(1, steps + 1)] for i in range(10)}


def test_eight_jobs_at_once_with_kills_lose_nothing(tmp_path: Path) -> None:
    steps, rng = 200, random.Random(7)
    jobs = {seed: begin(tmp_path, seed, steps, 0.02) for seed in range(8)}
    for seed in (1, 4, 6):  # killed while they write, and begun again
        for _ in range(2):
            assert jobs[seed].stdout.readline() == "begun\n"  # type: ignore[union-attr]
            time.sleep(rng.uniform(0.0, 0.5))
            jobs[seed].send_signal(signal.SIGKILL)
            jobs[seed].communicate()
            jobs[seed] = begin(tmp_path, seed, steps, 0.02)
    for seed, process in jobs.items():
        process.communicate(timeout=300)
        assert process.returncode == 0, seed
    import sqlite3

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert all_points(f"sqlite:///{tmp_path}/mlflow.db") == {str(seed): expected(steps) for seed in range(8)}


class MlflowServer:
    """`mlflow server` on 127.0.0.1, which can be killed and begun again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        import urllib.request

        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += [
            "--backend-store-uri",
            f"sqlite:///{self.place}/server.db",
            "--artifacts-destination",
            f"{self.place}/artifacts",
        ]
        with (self.place / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.place, stdout=log, stderr=log, process_group=0)
        for _ in range(1500):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError((self.place / "server.log").read_text())

    def down(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    (tmp_path / "server").mkdir()
    it = MlflowServer(tmp_path / "server")
    yield it
    it.down()


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, server: MlflowServer) -> None:
    """Away during the whole of the first job, killed in the middle of the second, and there again at its end."""
    env = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    first = begin(tmp_path, 1, 100, 0.0, **env)
    first.communicate(timeout=300)
    assert first.returncode == 1, "it is through, and its points wait"
    server.up()
    (tmp_path / "hold").touch()
    second = begin(tmp_path, 2, 200, 0.02, **env)
    assert second.stdout.readline() == "begun\n"  # type: ignore[union-attr]
    time.sleep(0.2)
    server.down()
    server.up()
    (tmp_path / "hold").unlink()
    second.communicate(timeout=300)
    assert second.returncode == 0
    synced = subprocess.run(
        [sys.executable, "-m", "seqmtl.cli", "sync", str(tmp_path)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert "sent 1,000 points" in synced.stdout
    assert all_points(server.uri) == {"1": expected(100), "2": expected(200)}
    assert list((tmp_path / "server" / "artifacts").rglob("config.yaml"))
