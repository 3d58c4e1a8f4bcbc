"""launcher=ray: jobs on a cluster of two nodes, made on this machine; what can be seen without Ray, without."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqmtl import job as job_module
from seqmtl.build import build_launcher
from seqmtl.errors import SeqmtlError
from seqmtl.launch import ray as launcher
from seqmtl.launch.command import Job
from seqmtl.runs import Run

PATIENCE = 300  # seconds, for what takes ten where nothing else runs


class Seen:
    """What a launcher told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []

    def started(self, job: Job) -> None: ...

    def waiting(self) -> None: ...

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        self.told.append((job.run_dir.name, status, reason))


def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_without_ray_the_launcher_says_what_to_install(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SeqmtlError, match=r"pip install 'seqmtl\[ray\]'"):
        build_launcher(compose("launcher=ray")["launcher"])([], "", Seen())


def call(*jobs: Job, **options: Any) -> Seen:
    seen = Seen()
    defaults = {"address": None, "cpus": None, "at_once": None, "retries": 3, "exported": []}
    launcher.run(jobs, "", seen, **(defaults | options))
    return seen


@pytest.mark.parametrize(("key", "value"), [("cpus", 0), ("at_once", 0), ("at_once", 1.5), ("retries", -1), ("retries", True)])
def test_numbers_that_cannot_be_are_refused(key: str, value: Any) -> None:
    with pytest.raises(SeqmtlError, match=f"launcher.{key} must be an integer of at least"):
        call(**{key: value})


def test_a_job_of_several_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError, match="launcher=slurm"):
        call(Job(tmp_path, ranks=2, nodes=2))


def instead(monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    monkeypatch.setattr(launcher, "command", lambda job, sweep: [sys.executable, "-c", python])


def test_on_a_node_that_does_not_share_the_files_the_job_is_refused(tmp_path: Path) -> None:
    told = list(launcher.attempt(Job(tmp_path / "run"), "", tmp_path, {}))
    assert told[0] is None
    status, reason = told[1]
    assert status == 1
    assert str(tmp_path / "run" / "config.yaml") in reason
    assert "must share the file system" in reason


def test_a_job_gets_the_place_and_the_environment_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir, place = tmp_path / "run", tmp_path / "place"
    run_dir.mkdir()
    place.mkdir()
    (run_dir / "config.yaml").touch()
    instead(monkeypatch, "import os; print(os.getcwd(), os.environ['MINE'], os.environ['PATH'] != ''); os._exit(7)")
    assert list(launcher.attempt(Job(run_dir), "", place, {"MINE": "x"})) == [None, (7, "")]
    instead(monkeypatch, "import os; print('stdout'); os.kill(os.getpid(), 9)")
    assert list(launcher.attempt(Job(run_dir), "", place, {})) == [None, (-9, "")]


# Many short epochs: a job is in the middle for a while.
LONG = ("batch_size=20", "trainer.max_epochs=60", "trainer.patience=60", "trainer.checkpoint_every=10", "trainer.workers=0")
LONG = (*LONG, "trainer.threads=1", "trainer.progress=none")


def listening(folder: Path) -> set[str]:
    """Addresses, in the kernel's hexadecimal, on which the processes that work in `folder` listen."""
    inodes = set()
    for pid in alive(folder):
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def alive(folder: Path) -> list[int]:
    """The processes that work in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and "State:\tZ" not in (process / "status").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def start(tmp_path: Path, dataset: Path, mlflow_database: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start("seed=1,2", RAY_ADDRESS=…) → a sweep with launcher=ray in a folder of its own."""
    place = tmp_path / "place"
    (place / "outputs").mkdir(parents=True)
    shutil.copy(mlflow_database, place / "outputs")
    shutil.move(dataset.parent, place / "data")
    processes = []

    def begin(*words: str, **environment: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
        command = [sys.executable, "-m", "seqmtl.cli", "-m", "launcher=ray", *LONG, *words]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, cwd=place, env=clean | environment, stdout=pipe, stderr=pipe, text=True))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def in_its_middle(place: Path, jobs: int) -> Callable[[], bool]:
    return lambda: len([log for log in place.glob("outputs/*/*/*/job.log") if "epoch 3/" in log.read_text()]) >= jobs


@pytest.mark.slow
def test_a_ray_of_this_machine_is_on_loopback_alone_and_leaves_nothing_behind(tmp_path: Path, start: Any) -> None:
    pytest.importorskip("ray")
    place = tmp_path / "place"
    for how, returncode in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = start("seed=1,2", "trainer.max_epochs=10000", "trainer.patience=10000", "launcher.at_once=1")
        until(in_its_middle(place, 1), "no training began")
        assert listening(place)
        assert listening(place) <= {"0100007F", "0000000000000000FFFF00000100007F"}, "127.0.0.1, as IPv4 and as IPv6 writes it"
        assert len(list(place.glob("outputs/*/*/*/job.log"))) == 1, "launcher.at_once=1"
        process.send_signal(how)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == returncode
        assert "Traceback" not in said
        until(lambda: not alive(place), "a process is left behind")
        (run_dir,) = place.glob("outputs/*/*/seed=1")
        assert Run(run_dir).state() == "interrupted", "to be gone on with"
        shutil.rmtree(run_dir)
    assert not (Path.home() / ".ray" / "auth_token").exists() or "RAY_AUTH_TOKEN" in os.environ


@pytest.mark.slow
def test_what_has_room_nowhere_is_refused_at_once(start: Any) -> None:
    pytest.importorskip("ray")
    said, errors = start("seed=1", "launcher.cpus=1000").communicate(timeout=PATIENCE)
    assert "it asks for 1000 cores and 0 GPUs of one node, and the nodes of this Ray have 127.0.0.1: " in errors
    assert "0 of 1 jobs finished" in said


CLUSTER = """
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
made = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
other = made.add_node(**node)
print(made.address, flush=True)
input()
made.remove_node(other, allow_graceful=False)
input()
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """Two nodes of one core each, on loopback, held by a process: it says the address; a line kills the second node."""
    pytest.importorskip("ray")
    for name, value in (launcher.LOCAL | {"RAY_AUTH_TOKEN": "a" * 64, "RAY_USAGE_STATS_ENABLED": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(job_module.__file__).parents[1]))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CLUSTER], cwd=tmp_path, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]
    until(lambda: not alive(tmp_path), "a process of the cluster is left behind")


@pytest.mark.slow
def test_a_job_of_a_lost_node_goes_on_elsewhere_and_ends_as_an_undisturbed_one(tmp_path: Path, start: Any, cluster: Any) -> None:
    address = cluster.stdout.readline().strip()
    place = tmp_path / "place"
    process = start("optimizer.lr=1e-3,1e20", "seed=1,2", RAY_ADDRESS=address)
    until(in_its_middle(place, 2), "no two jobs at once: one node is idle")
    before = set(alive(place))
    print("kill", file=cluster.stdin, flush=True)
    until(lambda: before - set(alive(place)), "the job outlived its node")
    said, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 1
    assert "2 of 4 jobs finished" in said, errors
    assert errors.count("diverged") == 2, "a failing job does not stop the rest"
    assert alive(place) == []
    finished = [path.parent for path in place.glob("outputs/*/*/*/metrics.json")]
    resumed = 0
    for run_dir in finished:
        log = (run_dir / "job.log").read_text()
        resumed += log.count("going on from")
        again = tmp_path / "again" / run_dir.name
        again.mkdir(parents=True)
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        config |= {"output_dir": str(tmp_path / "again"), "data_dir": str(place / "data")}
        (again / "config.yaml").write_text(yaml.safe_dump(config))
        job_module.run(again)
        for name in ("metrics.json", "test_logits.npy"):
            assert (again / name).read_bytes() == (run_dir / name).read_bytes(), f"{name} of {run_dir.name}"
    assert resumed == 1
