"""Jobs on one machine: how many run at once, how they end, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqmtl.errors import SeqmtlError
from seqmtl.launch import group, local
from seqmtl.launch.command import Job, command
from seqmtl.launch.gpus import Gpus

TOUCH = "open('began', 'w').close()"


class Seen:
    """Events, with how many jobs ran at once."""

    def __init__(self, stop_after: float | None = None) -> None:
        self.running: set[Path] = set()
        self.most = 0
        self.order: list[str] = []
        self.ends: dict[str, tuple[int, str]] = {}
        self.stop_at = None if stop_after is None else time.monotonic() + stop_after

    def started(self, job: Job) -> None:
        self.running.add(job.run_dir)
        self.most = max(self.most, len(self.running))
        self.order.append(job.run_dir.name)

    def waiting(self) -> None:
        if self.stop_at is not None and time.monotonic() > self.stop_at:
            raise KeyboardInterrupt

    def ended(self, job: Job, status: int, reason: str = "") -> None:
        self.running.discard(job.run_dir)
        self.ends[job.run_dir.name] = (status, reason)


Jobs = Callable[..., list[Job]]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """jobs("print(1)", "print(2)", ranks=2): jobs a, b, … that run these programs, each in its run directory."""
    programs: dict[Path, str] = {}

    def run_program(job: Job, sweep: str) -> list[str]:
        return [sys.executable, "-c", f"import os; os.chdir({str(job.run_dir)!r})\n{programs[job.run_dir]}"]

    monkeypatch.setattr(local, "command", run_program)
    monkeypatch.setattr(local, "POLL_SECONDS", 0.02)

    def make(*given: str, **of_each: Any) -> list[Job]:
        made = []
        for name, program in zip("abcdefgh", given, strict=False):
            run_dir = tmp_path / name
            run_dir.mkdir()
            programs[run_dir] = program
            made.append(Job(run_dir, **of_each))
        return made

    return make


def alive(run_dir: Path) -> bool:
    """Whether any process works in it."""
    places = []
    for process in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            places.append(process.readlink())
    return run_dir in places


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2), (8, 4)])
def test_as_many_at_once_as_asked_in_their_order(jobs: Jobs, at_once: int, most: int) -> None:
    seen = Seen()
    local.run(jobs(*["import time; time.sleep(0.3)"] * 4), "", seen, at_once=at_once)
    assert seen.most == most
    assert seen.order == ["a", "b", "c", "d"]
    assert seen.ends == dict.fromkeys("abcd", (0, ""))


@pytest.mark.parametrize(("of_each", "most"), [({}, 3), ({"threads": 2}, 1), ({"ranks": 3}, 1), ({"ranks": 8}, 1)])
def test_left_to_itself_a_rank_has_a_core(jobs: Jobs, of_each: dict[str, int], most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    seen = Seen()
    program = (
        "import os; assert os.environ['OMP_NUM_THREADS'] == '" + str(of_each.get("threads", 1)) + "'; import time; time.sleep(0.2)"
    )
    local.run(jobs(*[program] * 4, **of_each), "", seen, at_once=None)
    assert seen.most == most
    assert seen.ends == dict.fromkeys("abcd", (0, "")), "told their number of threads"


def test_a_job_that_fails_or_dies_stops_no_other(jobs: Jobs) -> None:
    seen = Seen()
    local.run(jobs("raise SystemExit(3)", "os.kill(os.getpid(), 9)", TOUCH), "", seen)
    assert seen.ends == {"a": (3, ""), "b": (-9, ""), "c": (0, "")}


def test_a_time_limit_ends_a_job_and_says_so(jobs: Jobs) -> None:
    seen = Seen()
    some = jobs("import time; time.sleep(600)", TOUCH)
    local.run(some, "", seen, time_limit=1 / 60)
    assert seen.ends["a"] == (-signal.SIGTERM, "ended after the time limit of 0.0166667 min (launcher.time_limit)")
    assert seen.ends["b"] == (0, "")
    assert not alive(some[0].run_dir)


def test_ctrl_c_ends_all_even_what_does_not_listen(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "GRACE_SECONDS", 0.5)
    deaf = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {TOUCH}; time.sleep(600)"
    with_child = f"import subprocess, sys; {TOUCH}; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    some = jobs(deaf, with_child, TOUCH)

    class Stops(Seen):
        def waiting(self) -> None:
            if all((job.run_dir / "began").exists() for job in some[:2]):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.run(some, "", Stops(), at_once=2)
    assert not any(alive(job.run_dir) for job in some)
    assert not (some[2].run_dir / "began").exists(), "what waited does not start"


def test_nothing_is_left_of_a_killed_sweep(tmp_path: Path) -> None:
    job = "from seqmtl.process import die_with_parent; die_with_parent()\n"
    job += f"import os, time; os.chdir({str(tmp_path)!r}); {TOUCH}; time.sleep(600)"
    sweep = (
        "import sys; from pathlib import Path; from seqmtl.launch import local; from seqmtl.launch.command import Job\n"
        "class Quiet:\n    started = waiting = ended = lambda *_: None\n"
        f"local.command = lambda *_: [sys.executable, '-c', {job!r}]\n"
        f"local.run([Job(Path({str(tmp_path)!r}))], '', Quiet())"
    )
    process = subprocess.Popen([sys.executable, "-c", sweep])
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert alive(tmp_path)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"at_once": 0}, "launcher.at_once must be a number above 0, not 0"),
        ({"jobs_per_gpu": "two"}, "launcher.jobs_per_gpu must be a number above 0, not 'two'"),
        ({"time_limit": -1}, "launcher.time_limit must be a number above 0, not -1"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(jobs: Jobs, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        local.run(jobs(TOUCH), "", Seen(), **options)


def test_several_machines_are_another_launchers(jobs: Jobs) -> None:
    with pytest.raises(SeqmtlError, match="launcher=slurm"):
        local.run(jobs(TOUCH, nodes=2), "", Seen())


# --- GPUs ---


def test_two_sweeps_never_meet_on_a_gpu(tmp_path: Path) -> None:
    one, other = (Gpus(gpus=("A", "B", "C"), folder=tmp_path) for _ in range(2))
    first, second = one.take(1), other.take(1)
    assert first is not None
    assert second is not None
    assert first.gpus != second.gpus
    assert one.take(2) is None, "one of the three is left"
    third = other.take(1)
    assert third is not None
    assert {*first.gpus, *second.gpus, *third.gpus} == {"A", "B", "C"}
    first.release()
    again = other.take(1)
    assert again is not None
    assert again.gpus == first.gpus


def test_jobs_share_a_gpu_only_when_asked_and_then_the_emptiest(tmp_path: Path) -> None:
    gpus = Gpus(jobs_per_gpu=2, gpus=("A", "B"), folder=tmp_path)
    leases = [gpus.take(1) for _ in range(5)]
    assert [lease.gpus[0] if lease else None for lease in leases] == ["A", "B", "A", "B", None]
    assert Gpus(jobs_per_gpu=2, gpus=("A", "B"), folder=tmp_path / "other").take(3) is None, "a job's ranks have a GPU each"


def test_a_gpu_that_one_sweep_has_for_itself_is_not_shared_by_another(tmp_path: Path) -> None:
    alone, sharing = Gpus(1, ("A",), tmp_path), Gpus(2, ("A",), tmp_path)
    whole = alone.take(1)
    assert whole is not None
    assert sharing.take(1) is None
    whole.release()
    place = sharing.take(1)
    assert place is not None
    assert alone.take(1) is None
    assert sharing.take(1) is not None


def test_jobs_on_gpus_share_the_cores() -> None:
    job = Job(Path("a"), ranks=2, gpus=2)
    assert local._threads(job, None, cores=64, places=8) == 8, "four such jobs of two ranks"
    assert local._threads(job, 1, cores=64, places=8) == 32
    assert local._threads(Job(Path("a"), gpus=1), None, cores=4, places=8) == 1


def test_a_job_sees_its_gpus_and_one_that_wants_too_many_fails_alone(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "Gpus", lambda per_gpu, *_: Gpus(per_gpu, ("A", "B"), tmp_path / "leases"))
    seen = Seen()
    tell = "import os, time; open('gpus', 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.5)"
    one, two, many = jobs(tell, tell, tell)
    some = [Job(one.run_dir, gpus=1), Job(many.run_dir, ranks=3, gpus=3), Job(two.run_dir, ranks=2, gpus=2)]
    local.run(some, "", seen, at_once=None)
    assert seen.ends == {"a": (0, ""), "b": (0, ""), "c": (1, "it asks for 3 GPUs, and this machine has 2 to give")}
    assert (one.run_dir / "gpus").read_text() == "A"
    assert (two.run_dir / "gpus").read_text() == "A,B"
    assert seen.most == 1, "the second waited for the first one's GPU"


# --- Ranks ---


def listening(pids: set[int]) -> set[str]:
    """Addresses, as the kernel writes them, on which these processes listen."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":  # LISTEN
                sockets[f"socket:[{words[9]}]"] = words[1].partition(":")[0]
    found = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                found.add(sockets.get(str(fd.readlink()), ""))
    return found - {""}


def family(root: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@pytest.mark.slow
def test_ranks_of_one_machine_listen_on_loopback_only(plan: Any) -> None:
    run_dir = plan("model=mmoe", "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2")
    process = subprocess.Popen(command(Job(run_dir, ranks=2), ""))
    seen: set[str] = set()
    while process.poll() is None:
        seen |= listening(family(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0
    assert seen == {"0100007F"}, "gloo's pairs, on 127.0.0.1"
