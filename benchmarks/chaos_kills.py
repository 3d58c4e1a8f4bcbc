"""Whom to kill, and when: what chaos.py begins and ends. Linux alone: processes are found in /proc."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DATA = ("dataset=aliccp_sim", "dataset.prepare.simulate.train_rows=8000", "dataset.prepare.simulate.test_rows=2000")
PREPARE = ("prepare",)
PATIENCE = 900.0  # seconds after which a command hangs


@dataclass(frozen=True)
class Place:
    """Where it all happens, and the mark by which the processes of a command are found."""

    root: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, words: tuple[str, ...], output: str) -> subprocess.Popen[bytes]:
        (self.root / output).mkdir(exist_ok=True)
        own = [f"data_dir={self.root / 'data'}"] + [f"output_dir={self.root / output}"] * (words != PREPARE)
        clean = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with (self.root / f"{output}.log").open("ab") as log:
            command = [sys.executable, "-m", "seqmtl.cli", *words, *DATA, *own]
            return subprocess.Popen(command, env=clean | {"SEQMTL_CHAOS": self.mark}, stdout=log, stderr=log)

    def alive(self) -> dict[int, bytes]:
        """{process: its environment} of all that our commands began."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                if self.mark.encode() in environment and int(process.name) != os.getpid():
                    found[int(process.name)] = environment
        return found


Strike = Callable[[Place, "subprocess.Popen[bytes]", Path, random.Random], bool]  # waits and kills; False: it had ended


def at_random(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """Wait for a drawn moment; False where the command ended before."""
    writes = 0 if rng.random() < 0.2 else rng.randint(1, 3)
    delay = rng.uniform(0, 0.3) if writes else rng.uniform(0, 15)
    seen = _checkpoints(output)
    for _ in polls(process, 0.005):
        if writes == 0:
            break
        now = _checkpoints(output)
        writes, seen = writes - (now != seen), now
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    return process.poll() is None


def _checkpoints(output: Path) -> dict[Path, int]:
    found = {}
    for path in output.rglob("last.ckpt"):
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_ino
    return found


def polls(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Again and again, while the command runs."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"{' '.join(map(str, process.args))} hangs")  # type: ignore[arg-type]
        yield
        time.sleep(seconds)


def kill_command(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """The process that was started; all its children must die with it."""
    if not at_random(place, process, output, rng):
        return False
    process.kill()
    return True


def kill_rank(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """One of the ranks; the others and their command must end of themselves, and not well."""
    if not at_random(place, process, output, rng):
        return False
    for _ in polls(process, 0.05):
        ranks = sorted(pid for pid, environment in place.alive().items() if b"\0LOCAL_RANK=" in b"\0" + environment)
        if len(ranks) == 2:
            os.kill(rng.choice(ranks), signal.SIGKILL)
            break
    else:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(120) == 0:
            raise SystemExit("a job of two ranks, of which one was killed, ended with the status 0")
    return True  # one that lives on is found by whoever counts orphans


def kill_writer(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """While a transaction of MLflow's database is open: its journal is there."""
    passed = rng.randint(0, 60)
    for _ in polls(process, 0.0002):
        if any(name.endswith("-journal") for name in os.listdir(output)):  # noqa: PTH208 - as fast as can be
            if passed == 0:
                process.kill()
                return True
            passed -= 1
    return False


def orphans(place: Place, process: subprocess.Popen[bytes]) -> int:
    """Processes that are left ten seconds after the kill; they are ended here."""
    deadline = time.monotonic() + 10
    while (left := place.alive()) and time.monotonic() < deadline:
        process.poll()  # else it stays as a zombie
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return len(left)
