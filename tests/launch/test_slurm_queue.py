"""Jobs that wait in Slurm's queue: what is said of them, and what a second command does."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from slurm_cluster import Cluster, cluster_in, idle, stop

from seqmtl.errors import SeqmtlError
from seqmtl.launch import slurm, slurm_job, squeue
from seqmtl.launch.command import Job

submitit = pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return cluster_in(tmp_path / "cluster", monkeypatch)


def test_a_job_in_the_queue_again_is_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requeued after a time limit or a node's failure: for a moment it is over, and no result is there."""
    monkeypatch.setattr(slurm, "LOST_SECONDS", 60.0)
    states = ["RUNNING", "NODE_FAIL", "PENDING", "RUNNING"]
    cluster.turns = [lambda state=state: cluster.queue(j1=state) for state in states for _ in "ab"]  # type: ignore[misc]
    cluster.turns += [lambda: cluster.ends("1", 0, ""), idle]
    cluster.run(cluster.job("a"))
    assert cluster.events == [("a", "started"), ("a", 0, "")]


def test_a_controller_that_is_away_ends_nothing(cluster: Cluster) -> None:
    cluster.turns = [(cluster.place / "away").touch, *[idle] * 5, lambda: cluster.ends("1", 0, ""), idle]
    cluster.run(cluster.job("a"))
    assert cluster.events == [("a", "started"), ("a", 0, "")]


def test_a_command_whose_jobs_wait_says_why_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(squeue, "QUIET_SECONDS", 0.0)
    caplog.set_level("INFO", logger="seqmtl")
    cluster.reasons(j1_0="Resources", j1_1="Resources", j9="Priority")
    cluster.turns = [*[idle] * 4, lambda: (cluster.ends("1_0", 0, ""), cluster.ends("1_1", 0, "")), idle]  # type: ignore[list-item,return-value]
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
    cluster.turns = [lambda: cluster.ends("1", 0, ""), idle]
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


def test_what_is_queued_already_is_not_submitted_twice(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    queued, other = cluster.job("queued"), cluster.job("other")
    cluster.turns = [lambda: cluster.queue(j1="PENDING"), stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(queued, detach=True)
    cluster.turns = [lambda: (cluster.ends("1", 0, ""), cluster.ends("2", 0, "")), idle]  # type: ignore[list-item,return-value]
    with caplog.at_level("INFO", "seqmtl"):
        cluster.run(queued, other)
    assert "waiting for 1 job that an earlier command left in Slurm's queue" in caplog.messages
    assert len(cluster.submitted()) == 2, "one array for the first, one for the other"
    assert {e[:2] for e in cluster.events if e[1] != "started"} == {("queued", 0), ("other", 0)}
    # Ended since: the next command submits it anew.
    cluster.turns = [lambda: cluster.ends("3", 0, ""), idle]
    cluster.run(queued)
    assert len(cluster.submitted()) == 3


@pytest.mark.parametrize("detach", [False, True])
def test_ctrl_c_cancels_what_was_submitted_and_nothing_else(cluster: Cluster, detach: bool) -> None:
    earlier, mine = cluster.job("earlier"), cluster.job("mine")
    cluster.turns = [lambda: cluster.queue(j1="RUNNING"), stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(earlier, detach=True)
    cluster.turns = [lambda: cluster.queue(j1="RUNNING", j2="RUNNING"), stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(earlier, mine, detach=detach)
    cancelled = cluster.place / "cancelled"
    assert (cancelled.read_text().split() if cancelled.exists() else []) == ([] if detach else ["2"])
    assert (mine.run_dir / slurm.NOTE).exists() == detach


def test_where_squeue_is_silent_nothing_is_submitted_twice(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.turns = [lambda: cluster.queue(j1="PENDING"), stop]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(job, detach=True)
    (cluster.place / "away").touch()
    with pytest.raises(SeqmtlError, match="may be in Slurm's queue already"):
        cluster.run(job)
    assert len(cluster.submitted()) == 1
