"""One holder at a time, whoever dies and whoever looks, on this host and on another."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqmtl import lock
from seqmtl.errors import SeqmtlError
from seqmtl.lock import Held, file_system_time, hold, owner

HOLDER = """
import sys, time
from pathlib import Path
from seqmtl import lock
from seqmtl.runs import Run
lock.BEAT_SECONDS = float(sys.argv[2])
run = Run(Path(sys.argv[1]))
with run.lock("training"):
    run.write_status("running", data_version="v1")
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds tmp_path until it gets a line, with a heartbeat every 50 ms."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "0.05"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def sign(path: Path, age: float = 0.0, host: str = "elsewhere") -> Path:
    """A lock file as a process of another host leaves it, whose flock does not reach here."""
    signed = {"host": host, "pid": 7, "started": "2026-01-01T00:00:00+00:00", "purpose": "training"}
    path.write_text(json.dumps(signed))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)


def test_who_holds_it_is_told_and_forgotten_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert owner(path) is None
    assert not path.exists(), "a look makes nothing"
    with hold(path, "preparing"):
        found = owner(path)
        assert found is not None
        assert (found.pid, found.purpose) == (os.getpid(), "preparing")
    assert owner(path) is None
    assert path.read_bytes() == b""


def test_a_second_process_is_refused_with_the_first_ones_name(tmp_path: Path, holder: subprocess.Popen[str], quick: None) -> None:
    says = rf"another process is running {tmp_path} \(process {holder.pid} on \S+, training since"
    with pytest.raises(Held, match=says), hold(tmp_path / ".lock", "training"):
        pass


def test_the_heart_beats_while_the_lock_is_held_and_stops_with_it(tmp_path: Path, quick: None) -> None:
    path, threads = tmp_path / ".lock", threading.active_count()

    def beats(wait: float) -> bool:
        os.utime(path, (0, 0))
        deadline = time.monotonic() + wait
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        return path.stat().st_mtime > 0

    with hold(path, "training"):
        assert beats(20)
    assert threading.active_count() == threads
    assert not beats(0.2)


def test_the_end_of_a_process_does_not_wait_for_its_heart(tmp_path: Path) -> None:
    script = HOLDER.replace("sys.stdin.readline()", "raise SystemExit(3)")
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), "600"], capture_output=True, timeout=100)
    assert done.returncode == 3
    assert time.monotonic() - started < 60


def test_a_killed_holder_lets_go_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert owner(tmp_path / ".lock") is not None
    holder.kill()
    holder.wait()
    assert owner(tmp_path / ".lock") is None
    with hold(tmp_path / ".lock", "training"):
        pass


def test_a_look_that_takes_long_makes_a_locker_wait(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.touch()
    with path.open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        timer = threading.Timer(0.1, fcntl.flock, (look, fcntl.LOCK_UN))
        timer.start()
        with hold(path, "training"):
            pass
        timer.join()


def test_whoever_looks_never_makes_a_locker_fail(tmp_path: Path) -> None:
    look = "import sys, pathlib\nfrom seqmtl.lock import owner\nprint('looks', flush=True)\n"
    look += "while True: owner(pathlib.Path(sys.argv[1]))"
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", look, str(path)]
    lookers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            assert looker.stdout.readline() == "looks\n"
        for _ in range(200):
            with hold(path, "training"):
                pass
        assert all(looker.poll() is None for looker in lookers)
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()


def test_another_hosts_lock_is_held_while_its_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sign(tmp_path / ".lock")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)  # this host's clock is an hour ahead of the file system's
    found = owner(path, file_system_time(tmp_path))
    assert found is not None
    assert found.host == "elsewhere"


def test_a_silent_hosts_lock_is_free(tmp_path: Path) -> None:
    path = sign(tmp_path / ".lock", age=lock.STALE_SECONDS + 60)
    assert owner(path, file_system_time(tmp_path)) is None


@pytest.mark.parametrize("age", [600.0, 0.0])
def test_a_silent_hosts_lock_is_taken_over_with_a_word(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, age: float
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(logging.getLogger("seqmtl"), "propagate", True)
    path = sign(tmp_path / ".lock", age)
    with hold(path, "training"):
        found = owner(path)
        assert found is not None
        assert found.pid == os.getpid()
    assert "is taken over from process 7 on elsewhere" in caplog.text


def test_another_hosts_living_process_is_not_disturbed(tmp_path: Path, quick: None) -> None:
    path = sign(tmp_path / ".lock")
    before = path.read_text()
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(Held, match="process 7 on elsewhere"), hold(path, "training"):
            pass
    finally:
        stop.set()
        heart.join()
    assert path.read_text() == before


def test_of_four_that_take_over_at_once_one_does(tmp_path: Path, quick: None) -> None:
    path = sign(tmp_path / ".lock", age=600)
    together, done = threading.Barrier(4), threading.Barrier(4)
    got: list[str] = []

    def take() -> None:
        together.wait()
        try:
            with hold(path, "training"):
                got.append("held")
                done.wait(60)
        except SeqmtlError:
            got.append("refused")
            done.wait(60)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held", "refused", "refused", "refused"]


def test_a_process_that_lost_its_lock_to_another_host_ends(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    path = sign(tmp_path / ".lock")
    before = path.read_text()
    assert holder.wait(60) == -signal.SIGTERM
    assert path.read_text() == before, "the other one's name stays"
