"""Jobs of a Slurm cluster: what is asked of Slurm, how starts and ends are seen, and how a job ends on its node."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, cluster_in, idle, until

from seqmtl.errors import SeqmtlError
from seqmtl.launch import slurm
from seqmtl.launch.slurm_job import OnNode
from seqmtl.runs import Run

submitit = pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return cluster_in(tmp_path / "cluster", monkeypatch)


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

    cluster.turns = [end, idle]
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

    cluster.turns = [begin, idle, go_on, idle, idle, idle]
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
        until(lambda: (run_dir / "running").exists())
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
