"""Jobs of a Slurm cluster: what is asked of Slurm, how ends are seen, and, where there is a Slurm, all of it for real."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seqmtl.errors import SeqmtlError
from seqmtl.launch import slurm, slurm_job, squeue
from seqmtl.launch.command import Job
from seqmtl.launch.slurm_job import OnNode
from seqmtl.runs import Run

submitit = pytest.importorskip("submitit")

SBATCH = r"""#!/bin/sh
[ -e "$CLUSTER/refuses" ] && { echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }
n=$(($(ls "$CLUSTER" | grep -c submitted) + 1))
cp "$1" "$CLUSTER/submitted-$n"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
if [ "$last" ]; then for i in $(seq 0 "$last"); do echo "${n}_$i|PENDING"; done; else echo "$n|PENDING"; fi >> "$CLUSTER/queue"
echo "Submitted batch job $n"
"""
SQUEUE = r"""#!/bin/sh
[ -e "$CLUSTER/away" ] && exit 1
case "$*" in *"--states=PENDING "*"%i|%r") cat "$CLUSTER/reasons" ;; *) cat "$CLUSTER/queue" ;; esac
"""
SCANCEL = '#!/bin/sh\necho "$@" >> "$CLUSTER/cancelled"\n: > "$CLUSTER/queue"\n'
SCONTROL = '#!/bin/sh\necho "$@" >> "$CLUSTER/requeued"\n'


@dataclass
class Cluster:
    """Stands for Slurm: remembers what was submitted, shows the queue that a test writes, and runs nothing."""

    place: Path
    events: list[Any] = field(default_factory=list)
    turns: list[Callable[[], None]] = field(default_factory=list)

    def job(self, name: str, **size: Any) -> Job:
        run_dir = self.place.parent / "outputs" / name
        run_dir.mkdir(parents=True)
        return Job(run_dir, **size)

    def queue(self, **states: str) -> None:
        (self.place / "queue").write_text("".join(f"{job.removeprefix('j')}|{state}\n" for job, state in states.items()))

    def reasons(self, **reasons: str) -> None:
        """Why jobs wait."""
        (self.place / "reasons").write_text("".join(f"{job.removeprefix('j')}|{why}\n" for job, why in reasons.items()))

    def submitted(self) -> list[str]:
        return [path.read_text() for path in sorted(self.place.glob("submitted-*"))]

    def ends(self, job: str, *result: Any, outcome: str = "success") -> None:
        """What submitit leaves on the node."""
        path = self.place.parent / "logs" / job / f"{job}_0_result.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps((outcome, result if outcome == "success" else result[0])))

    # Events: each call of waiting() is the next turn of what happens.
    def started(self, job: Job) -> None:
        self.events.append((job.run_dir.name, "started"))

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        self.events.append((job.run_dir.name, status, reason))

    def waiting(self) -> None:
        assert self.turns, "it waits for what does not come"
        self.turns.pop(0)()

    def run(self, *jobs: Job, **options: Any) -> None:
        slurm.run(jobs, "sweep", self, folder=str(self.place.parent / "logs"), **options)


def _idle() -> None:
    pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    place = tmp_path / "cluster"
    place.mkdir()
    (place / "queue").touch()
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("scontrol", SCONTROL), ("srun", SBATCH)):
        (place / name).write_text(script)
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(place))
    for name in ("LOOK_SECONDS", "POLL_SECONDS", "LOST_SECONDS"):
        monkeypatch.setattr(slurm, name, 0.0)
    return Cluster(place)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (90, 90),
        ("90", 90),
        ("10:30", 11),
        ("2:00:00", 120),
        ("1-00:00:00", 1440),
        ("2-03", 51 * 60),
        ("1-01:30", 1530),
        ("0:30", 1),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(limit: int | str, expected: int) -> None:
    assert slurm.minutes(limit) == expected


@pytest.mark.parametrize("limit", ["soon", "1h", -5, 0, "1-2-3", None])
def test_another_time_limit_is_refused(limit: Any) -> None:
    with pytest.raises(SeqmtlError, match=r"launcher\.time must be minutes, HH:MM:SS or D-HH:MM:SS"):
        slurm.minutes(limit)


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("array", 0, 1), ("at_once", "many", 1), ("requeue", -1, 0), ("cpus", 1.5, 1), ("notice", True, 0)],
)
def test_options_that_make_no_sense_are_refused(cluster: Cluster, option: str, value: Any, least: int) -> None:
    with pytest.raises(SeqmtlError, match=rf"launcher\.{option} must be a whole number of at least {least}, not {value!r}"):
        cluster.run(cluster.job("a"), **{option: value})
    assert not cluster.submitted()


def test_what_is_asked_of_slurm(cluster: Cluster) -> None:
    jobs = [cluster.job(f"small{n}", threads=2) for n in range(3)] + [cluster.job("large", ranks=4, nodes=2, gpus=4)]

    def end() -> None:
        for job in ("1_0", "1_1", "2", "3"):
            cluster.ends(job, 0, "")
        cluster.ends("3", 0, "")
        shutil.copy(cluster.place.parent / "logs/3/3_0_result.pkl", cluster.place.parent / "logs/3/3_1_result.pkl")

    cluster.turns = [end, _idle]
    options: dict[str, Any] = {"partition": "gpus", "memory": "16G", "setup": ["module load cuda"], "extra": {"mail_type": "END"}}
    cluster.run(*jobs, array=2, at_once=1, time="2:00:00", notice=120, account="me", **options)
    array, rest, large = cluster.submitted()
    for script in (array, rest, large):
        for line in ("partition=gpus", "mem=16G", "time=120", "signal=USR2@120", "account=me", "mail-type=END", "requeue"):
            assert f"#SBATCH --{line}\n" in script
        assert "module load cuda" in script
        assert "--qos" not in script, "null: the cluster's default"
    assert "#SBATCH --array=0-1%1\n" in array
    assert "--array" not in rest, "no more than two in an array; one alone needs none"
    assert "#SBATCH --cpus-per-task=2\n" in array
    assert "srun --unbuffered" in array
    assert "--cpus-per-task=2 " in array.partition("srun")[2], "srun does not take it from the script"
    assert "--gpus-per-node" not in array
    for line in ("nodes=2", "ntasks-per-node=1", "cpus-per-task=4", "gpus-per-node=4"):
        assert f"#SBATCH --{line}\n" in large
    assert [e for e in cluster.events if e[1] != "started"] == [(job.run_dir.name, 0, "") for job in jobs]


def test_starts_and_ends_are_told(cluster: Cluster) -> None:
    good, bad, broken, killed = (cluster.job(name) for name in ("good", "bad", "broken", "killed"))
    Run(killed.run_dir).write_status("running", data_version="1")
    trace = "Traceback (most recent call last):\n  File …\nModuleNotFoundError: No module named 'seqmtl'\n"

    def begin() -> None:
        cluster.queue(j1_0="RUNNING", j1_1="PENDING", j1_2="PENDING", j1_3="RUNNING")

    def go_on() -> None:
        cluster.ends("1_0", 0, "")
        cluster.ends("1_1", 3, "")
        cluster.ends("1_2", trace, outcome="error")
        cluster.queue(j1_0="COMPLETED", j1_1="FAILED", j1_2="FAILED", j1_3="OUT_OF_MEMORY")

    cluster.turns = [begin, _idle, go_on, _idle, _idle, _idle]
    cluster.run(good, bad, broken, killed)
    assert {e for e in cluster.events if e[1] == "started"} == {(n, "started") for n in ("good", "bad", "broken", "killed")}
    ends = {e[0]: e[1:] for e in cluster.events if e[1] != "started"}
    assert ends["good"] == (0, "")
    assert ends["bad"] == (3, "")
    assert ends["broken"][0] == 1
    assert "No module named 'seqmtl'; see " in ends["broken"][1]
    assert ends["killed"][0] == 1
    assert "out of memory); ask for more with launcher.memory" in ends["killed"][1]
    status = Run(killed.run_dir).status()
    assert (status["state"], status["data_version"]) == ("interrupted", "1")
    assert "out of memory" in status["reason"]


def test_a_job_in_the_queue_again_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requeued after a time limit or a node's failure: for a moment it is over, and no result is there."""
    monkeypatch.setattr(slurm, "LOST_SECONDS", 60.0)
    states = ["RUNNING", "NODE_FAIL", "PENDING", "RUNNING"]
    cluster.turns = [lambda state=state: cluster.queue(j1=state) for state in states for _ in "ab"]  # type: ignore[misc]
    cluster.turns += [lambda: cluster.ends("1", 0, ""), _idle]
    cluster.run(cluster.job("a"))
    assert cluster.events == [("a", "started"), ("a", 0, "")]


def test_a_controller_that_is_away_ends_nothing(cluster: Cluster) -> None:
    cluster.turns = [(cluster.place / "away").touch, *[_idle] * 5, lambda: cluster.ends("1", 0, ""), _idle]
    cluster.run(cluster.job("a"))
    assert cluster.events == [("a", "started"), ("a", 0, "")]


def test_a_command_whose_jobs_wait_says_why_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(squeue, "QUIET_SECONDS", 0.0)
    caplog.set_level("INFO", logger="seqmtl")
    cluster.reasons(j1_0="Resources", j1_1="Resources", j9="Priority")
    cluster.turns = [*[_idle] * 4, lambda: (cluster.ends("1_0", 0, ""), cluster.ends("1_1", 0, "")), _idle]  # type: ignore[list-item,return-value]
    cluster.run(cluster.job("a"), cluster.job("b"))
    assert caplog.messages[1:] == ["waiting for Slurm: 2 jobs are pending (Resources)"]


def test_a_wait_is_told_of_after_a_minute_in_which_nothing_ran(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="seqmtl")
    cluster.reasons(j1="JobHeldUser", j2="ReqNodeNotAvail, UnavailableNodes:one", j3="JobHeldUser")
    waits = {"1": "PENDING", "2": "PENDING", "3": "PENDING"}
    runs = waits | {"2": "RUNNING"}
    quiet = squeue.Quiet()
    for now, states in enumerate([waits, runs, waits, {}, waits]):  # {}: the controller is away
        quiet.look(["1", "2", "3"], states, 50.0 * now)
    quiet.look(["1", "2", "3"], waits, 209.0)  # at 150 something else was seen last
    assert not caplog.messages
    (cluster.place / "away").touch()
    quiet.look(["1", "2", "3"], waits, 210.0)
    assert not caplog.messages
    (cluster.place / "away").unlink()
    for now in (220.0, 230.0):
        quiet.look(["1", "2", "3"], waits, now)
    assert caplog.messages == ["waiting for Slurm: 3 jobs are pending (2 JobHeldUser; 1 ReqNodeNotAvail, UnavailableNodes:one)"]


def test_a_job_that_ended_begins_the_minute_anew(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="seqmtl")
    cluster.reasons(j2="Priority")
    quiet = squeue.Quiet()
    for left, now in ((["1", "2"], 0.0), (["2"], 60.0), (["2"], 119.0)):
        quiet.look(left, dict.fromkeys(left, "PENDING"), now)
        assert not caplog.messages
    quiet.look(["2"], {"2": "PENDING"}, 120.0)
    assert caplog.messages == ["waiting for Slurm: 1 job is pending (Priority)"]


def test_a_job_in_the_queue_keeps_the_settings_of_its_command(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = '{"trainer.log_every": 3}'
    cluster.turns = [lambda: cluster.ends("1", 0, ""), _idle]
    cluster.run(cluster.job("a", settings=settings))
    started: list[Job] = []
    monkeypatch.setattr(slurm_job, "command", lambda job, *_: started.append(job) or ["true"])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        (pickled,) = (cluster.place.parent / "logs").rglob("*submitted*.pkl")
        node = submitit.helpers.DelayedSubmission.load(pickled).function
        for again in (node, node.checkpoint().function):  # the second: after a time limit
            again._start(SimpleNamespace(node=0)).wait(60)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert [job.settings for job in started] == [settings, settings]


def _stop() -> None:
    raise KeyboardInterrupt


def test_what_is_queued_already_is_not_submitted_twice(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    queued, other = cluster.job("queued"), cluster.job("other")
    cluster.turns = [lambda: cluster.queue(j1="PENDING"), _stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(queued, detach=True)
    cluster.turns = [lambda: (cluster.ends("1", 0, ""), cluster.ends("2", 0, "")), _idle]  # type: ignore[list-item,return-value]
    with caplog.at_level("INFO", "seqmtl"):
        cluster.run(queued, other)
    assert "waiting for 1 job that an earlier command left in Slurm's queue" in caplog.messages
    assert len(cluster.submitted()) == 2, "one array for the first, one for the other"
    assert {e[:2] for e in cluster.events if e[1] != "started"} == {("queued", 0), ("other", 0)}
    # Ended since: the next command submits it anew.
    cluster.turns = [lambda: cluster.ends("3", 0, ""), _idle]
    cluster.run(queued)
    assert len(cluster.submitted()) == 3


@pytest.mark.parametrize("detach", [False, True])
def test_ctrl_c_cancels_what_was_submitted_and_nothing_else(cluster: Cluster, detach: bool) -> None:
    earlier, mine = cluster.job("earlier"), cluster.job("mine")
    cluster.turns = [lambda: cluster.queue(j1="RUNNING"), _stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(earlier, detach=True)
    cluster.turns = [lambda: cluster.queue(j1="RUNNING", j2="RUNNING"), _stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(earlier, mine, detach=detach)
    cancelled = cluster.place / "cancelled"
    assert (cancelled.read_text().split() if cancelled.exists() else []) == ([] if detach else ["2"])
    assert (mine.run_dir / slurm.NOTE).exists() == detach


def test_what_sbatch_refuses_is_told_and_the_rest_cancelled(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [cluster.job("a"), cluster.job("b", ranks=2)]
    real = slurm._submit

    def second_refused(*args: Any) -> Any:
        sent = real(*args)
        (cluster.place / "refuses").touch()
        return sent

    monkeypatch.setattr(slurm, "_submit", second_refused)
    with pytest.raises(SeqmtlError, match=r"sbatch refused the jobs: .*invalid partition specified: nowhere"):
        cluster.run(*jobs)
    assert (cluster.place / "cancelled").read_text().split() == ["1"]


def test_without_slurm_or_submitit_the_launcher_says_what_it_needs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cluster.job("a")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "submitit", None)
        with pytest.raises(SeqmtlError, match=r"pip install 'seqmtl\[slurm\]'"):
            cluster.run(job)
    monkeypatch.setenv("PATH", str(cluster.place.parent))
    with pytest.raises(SeqmtlError, match="there is no sbatch here"):
        cluster.run(job)


def test_where_squeue_is_silent_nothing_is_submitted_twice(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.turns = [lambda: cluster.queue(j1="PENDING"), _stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(job, detach=True)
    (cluster.place / "away").touch()
    with pytest.raises(SeqmtlError, match="may be in Slurm's queue already"):
        cluster.run(job)
    assert len(cluster.submitted()) == 1


# Stands for a job: says that it runs, and on SIGTERM that it ended in good order.
CHILD = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
def end(*_):
    (run / "ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(run / "running").touch()
time.sleep(600)
"""
NODE = """
import sys
from seqmtl.launch import slurm_job
slurm_job.command = lambda job, sweep, rendezvous: [sys.executable, "-c", sys.argv[2], str(job.run_dir)]
from submitit.core.submission import process_job
process_job(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("requeue", "number", "requeued", "reason"),
    [
        (1, signal.SIGUSR2, "requeue 7", "it is in the queue again"),
        pytest.param(0, signal.SIGUSR2, "", r"time limit once, and launcher\.requeue is 0", marks=pytest.mark.slow),
        (1, signal.SIGTERM, "", "Slurm ended it"),
    ],
    ids=["time limit", "last time limit", "ended"],
)
def test_a_job_ends_in_good_order_when_slurm_says_so(
    cluster: Cluster, requeue: int, number: signal.Signals, requeued: str, reason: str
) -> None:
    """Slurm signals all processes of a job at once; this does it for the two that there are."""
    run_dir, folder = cluster.job("a").run_dir, cluster.place.parent / "logs"
    Run(run_dir).write_status("running", data_version="1")
    delayed = submitit.helpers.DelayedSubmission(OnNode(str(run_dir), 1, 1, 0, None, "sweep", requeue))
    delayed.set_timeout(1, requeue)
    folder.mkdir()
    delayed.dump(folder / "7_submitted.pkl")
    env = os.environ | {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}
    node = subprocess.Popen([sys.executable, "-c", NODE, str(folder), CHILD], env=env, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: (run_dir / "running").exists())
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        (child,) = map(int, children)
        for pid in (child, node.pid):
            os.kill(pid, number)
        node.wait(60)
    finally:
        node.kill()
        node.wait()
    assert (run_dir / "ended").exists(), "by its own handler, not by the signal"
    assert not Path(f"/proc/{child}").exists()
    told = cluster.place / "requeued"
    assert (told.read_text().strip() if told.exists() else "") == requeued
    status = Run(run_dir).status()
    assert status["state"] == "interrupted"
    assert re.search(reason, status["reason"])
    result = folder / "7_0_result.pkl"
    assert result.exists() == (requeue == 0), "a job that may come again has no result yet"
    if requeue == 0:
        outcome, (code, said) = pickle.loads(result.read_bytes())
        assert (outcome, code) == ("success", 1)
        assert re.search(reason, said)


def _until(happened: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


there_is_slurm = pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no Slurm here")
LONG = ("batch_size=4", "trainer.max_epochs=12", "trainer.patience=12", "trainer.checkpoint_every=20", "trainer.threads=1")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seqmtl.cli", "-m", *words]
    return subprocess.Popen(command, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_queue(*which: str) -> list[str]:
    command = ["squeue", *which, f"--user={os.getuid()}", "--noheader", "--array", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def tidy(tmp_path: Path) -> Iterator[None]:
    """A cluster that answers; nothing of a failed test stays in its queue."""
    if subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode != 0:
        pytest.skip("Slurm is installed, and slurmctld does not answer")
    yield
    for note in tmp_path.glob("*/*/*/*/slurm.json"):
        subprocess.run(["scancel", json.loads(note.read_text())["job_id"]], check=False)


@pytest.mark.slow
@there_is_slurm
def test_a_sweep_on_slurm_one_of_it_fails(tmp_path: Path, dataset: Path, tidy: None) -> None:
    small = ("trainer=debug", "batch_size=50", "trainer.max_batches=4", "launcher=slurm", "launcher.time=20")
    sweep = start(tmp_path, *small, "optimizer.lr=1e-3,1e20", "seed=1,2")
    said, errors = sweep.communicate(timeout=900)
    assert sweep.returncode == 1
    assert "2 of 4 jobs finished" in said
    assert errors.count("diverged") == 2


@pytest.mark.slow
@there_is_slurm
def test_a_requeued_job_ends_as_an_undisturbed_one(tmp_path: Path, dataset: Path, tidy: None) -> None:
    whole = start(tmp_path, *LONG, "seed=1", "output_dir=whole")
    _, errors = whole.communicate(timeout=900)
    assert whole.returncode == 0, errors
    sweep = start(tmp_path, *LONG, "seed=1", "launcher=slurm", "launcher.time=30", "output_dir=cut")
    try:
        _until(lambda: any("epoch 2/" in p.read_text() for p in tmp_path.glob("cut/*/*/*/job.log")))
        (run_dir,) = tmp_path.glob("cut/*/*/seed=1")
        job = json.loads((run_dir / slurm.NOTE).read_text())["job_id"]
        subprocess.run(["scontrol", "requeue", job], check=True)
        _until(lambda: Run(run_dir).status()["state"] == "interrupted")
        _until(lambda: job in in_queue("--states=PENDING"))
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)  # Slurm would wait two minutes
        _, errors = sweep.communicate(timeout=900)
    finally:
        sweep.kill()
    assert sweep.returncode == 0, errors
    assert "going on from" in (run_dir / "job.log").read_text()
    (undisturbed,) = tmp_path.glob("whole/*/*/seed=1")
    for name in ("metrics.json", "test_logits.npy"):
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
@there_is_slurm
def test_ctrl_c_leaves_nothing_in_slurms_queue(tmp_path: Path, dataset: Path, tidy: None) -> None:
    sweep = start(tmp_path, "batch_size=2", "trainer.max_epochs=10000", "trainer.patience=10000", "seed=1,2,3", "launcher=slurm")
    try:
        _until(lambda: any("epoch 1/" in p.read_text() for p in tmp_path.glob("outputs/*/*/*/job.log")))
        sweep.send_signal(signal.SIGINT)
        said, _ = sweep.communicate(timeout=120)
    finally:
        sweep.kill()
    assert sweep.returncode == 130
    assert "cancelling 3 jobs in Slurm's queue" in said
    (array,) = re.findall(r"submitted to Slurm: (\d+)_0 to", said)
    assert not [job for job in in_queue() if job.startswith(f"{array}_")]
    working = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(p)]
    assert not working


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
