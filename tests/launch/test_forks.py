"""How jobs are forked, and what is done where they cannot be: with jobs of some lines in place of those that import torch."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from launches import Ends, started_by

from seqmtl.launch import local, warm
from seqmtl.launch.command import Job
from seqmtl.launch.group import end_groups
from seqmtl.process import for_children

JOB = """
import sys, time
from pathlib import Path
from seqmtl.process import die_with_parent
print("words of a library")
def main():
    die_with_parent()
    exec((Path(sys.argv[1]) / "program.py").read_text())
    return 0
if __name__ == "__main__":
    sys.exit(main())
"""
TORCH = """
def set_num_threads(number):
    print("threads:", number)
"""
SERVER = (
    "import sys; from seqmtl.launch import forks; forks.JOB, forks.NEEDED = 'quick', ('quick', 'torch'); {}; sys.exit(forks.main())"
)
LONG = "(Path(sys.argv[1]) / 'began').touch(); time.sleep(600)"

Jobs = Callable[..., list[Job]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return started_by(monkeypatch)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """jobs("print(1)", "print(2)"): jobs a, b, … that run these programs."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    library = tmp_path / "library"
    library.mkdir()
    (library / "quick.py").write_text(JOB)
    (library / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", f"{library}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(warm, "JOB", ["-m", "quick"])
    monkeypatch.setattr(local, "command", lambda job, _: [sys.executable, "-m", "quick", str(job.run_dir)])
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)
    serve(monkeypatch)

    def make(*programs: str) -> list[Job]:
        made = [Job(tmp_path / name) for name in "abcdefgh"[: len(programs)]]
        for job, program in zip(made, programs, strict=True):
            job.run_dir.mkdir()
            (job.run_dir / "program.py").write_text(program)
        return made

    return make


def serve(monkeypatch: pytest.MonkeyPatch, change: str = "pass") -> None:
    monkeypatch.setattr(warm, "FORKS", ["-c", SERVER.format(change)])


def environment() -> Mapping[str, str]:
    return os.environ | for_children()


def test_forked_jobs_end_as_they_do_and_write_to_their_own_files(jobs: Jobs, started: list[Any]) -> None:
    some = jobs("print('one')", "sys.exit(3)", "import os; os.kill(os.getpid(), 9)")
    ends = Ends()
    local.run(some, "", ends)
    assert ends.statuses == {"a": 0, "b": 3, "c": -9}
    assert (some[0].run_dir / "console.log").read_text() == "one\n", "not what was printed when modules were imported"
    assert [type(process) for process in started] == [warm.Forked] * 3
    assert len({process.server.process.pid for process in started}) == 1


def test_a_list_of_numbers_of_threads_is_allowed(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    some = jobs("", "")
    ends = Ends()
    local.run(some, "", ends)
    assert ends.statuses == {"a": 0, "b": 0}
    assert (some[0].run_dir / "console.log").read_text() == "threads: 4\n"


def test_jobs_that_ran_when_the_forking_process_died_are_told_and_the_rest_runs(jobs: Jobs, started: list[Any]) -> None:
    some = jobs(LONG, "", "print('three')")

    class Kills(Ends):
        def ended(self, job: Job, status: int, reason: str = "") -> None:
            super().ended(job, status, reason)
            if job is some[1]:
                while not (some[0].run_dir / "began").exists():
                    time.sleep(0.01)
                started[0].server.process.kill()
                started[0].server.process.wait()  # the third is started before anyone looks at the first

    ends = Kills()
    local.run(some, "", ends, at_once=2)
    assert ends.statuses == {"a": -signal.SIGKILL, "b": 0, "c": 0}
    assert (some[2].run_dir / "console.log").read_text().endswith("three\n")
    assert started[2].server is not started[0].server


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("sys.exit('no such library')", 1),
        ("forks.NEEDED = ('no_such_library',)", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", 1),
    ],
    ids=["ends", "cannot import", "is killed", "has a thread"],
)
def test_where_none_can_be_forked_each_gets_a_process_of_its_own(
    jobs: Jobs,
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
    status: int,
) -> None:
    serve(monkeypatch, change)
    some = jobs("print('one')", "sys.exit(3)", "")
    ends = Ends()
    with caplog.at_level(logging.WARNING, "seqmtl"):
        local.run(some, "", ends)
    assert ends.statuses == {"a": 0, "b": 3, "c": 0}
    assert (some[0].run_dir / "console.log").read_text() == "words of a library\none\n"
    assert not any(isinstance(process, warm.Forked) for process in started)
    (line,) = caplog.messages
    assert line == f"each job imports what it needs: the process that was to fork them ended with status {status} instead"


def test_one_that_hangs_in_its_imports_is_ended_and_each_gets_a_process_of_its_own(
    jobs: Jobs, started: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm, "IMPORT_SECONDS", 0.2)
    serve(monkeypatch, "import time; time.sleep(600)")
    servers = []
    begin = warm.Server.__init__
    monkeypatch.setattr(warm.Server, "__init__", lambda self, environment: (servers.append(self), begin(self, environment))[1])
    some = jobs("print('one')", "sys.exit(3)", "")
    ends = Ends()
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING, "seqmtl"):
        local.run(some, "", ends)
    assert time.monotonic() - begun < 60
    assert ends.statuses == {"a": 0, "b": 3, "c": 0}
    assert not any(isinstance(process, warm.Forked) for process in started)
    assert caplog.messages == ["each job imports what it needs: the process that was to fork them had not begun to after 0.2 s"]
    (server,) = servers
    assert server.process.returncode == -signal.SIGKILL


def test_one_that_forks_is_not_bound_by_the_time_of_imports(
    jobs: Jobs, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = jobs("", LONG.replace("600", "0.3"), "")

    class Shortens(Ends):
        def ended(self, job: Job, status: int, reason: str = "") -> None:
            super().ended(job, status, reason)
            monkeypatch.setattr(warm, "IMPORT_SECONDS", 0.0)

    ends = Shortens()
    local.run(some, "", ends)
    assert ends.statuses == {"a": 0, "b": 0, "c": 0}
    assert [type(process) for process in started] == [warm.Forked] * 3


def test_a_job_has_its_group_before_anyone_is_told_of_it(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    late = "import time; forks._become = lambda _: time.sleep(600)"  # the job itself never comes to do it
    serve(monkeypatch, f"{late}; do = forks.os.setpgid; forks.os.setpgid = lambda pid, group: pid and do(pid, group)")
    jobs()
    server = warm.Server(environment())
    try:
        forked = server.start(["none"], environment(), tmp_path / "console.log")
        assert forked is not None
        assert os.getpgid(forked.pid) == forked.pid
        begun = time.monotonic()
        end_groups([forked])
        assert forked.returncode == -signal.SIGTERM
        assert time.monotonic() - begun < 5
    finally:
        server.close()
