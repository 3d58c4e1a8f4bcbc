"""One process holds a run directory: a lock that names its owner, and a heartbeat.

The kernel's lock (flock) decides: it is free at the moment in which its holder dies, whichever process gets that number later. Some
network file systems keep it from other hosts. So the owner writes who it is into the lock file, and sets the file's time (mtime)
anew as long as it lives; what another host's process has signed is taken over only when that heartbeat has stopped.

Unusual: nobody's clock is asked. The age of a heartbeat is the difference of two times that the same file system gave.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from seqmtl.disk import disk_errors
from seqmtl.errors import SeqmtlError

log = logging.getLogger("seqmtl")

BEAT_SECONDS = 10.0
STALE_SECONDS = 90.0  # a file system may be slow, and keep the times of files for a minute
PATIENCE_SECONDS = 2.0  # whoever looks holds the lock for an instant, and a sweep that prepares a job for a moment


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: `started` is when it took it, `purpose` what for."""

    host: str
    pid: int
    started: str
    purpose: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, {self.purpose} since {self.started}"


UNKNOWN = Owner("an unknown host", 0, "an unknown time", "at work")  # the lock is held, and not signed yet


class Held(SeqmtlError):
    """Another process holds the directory."""

    def __init__(self, path: Path, owner: Owner, age: float) -> None:
        super().__init__(
            f"another process is running {path.parent} ({owner}; its last heartbeat was {age:.0f} s ago); wait for it, or end it"
        )
        self.owner = owner


@contextlib.contextmanager
def hold(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock file `path`, signed, with a heartbeat; the kernel lets go when the process dies.

    Raises:
        Held: another process holds it.
    """
    with disk_errors(path):
        file = path.open("a+b", buffering=0)  # over NFS an exclusive lock wants a file to write, a shared one a file to read
    with file:
        me = Owner(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"), purpose)
        with disk_errors(path):
            _take(file, path)
            _outlast_other_host(file, path)
            file.truncate(0)
            file.write(json.dumps(asdict(me)).encode() + b"\n")
        stop = threading.Event()
        heart = threading.Thread(target=_beat, args=(file, path, me, stop), daemon=True)
        heart.start()
        try:
            yield
        finally:
            stop.set()
            heart.join()  # before the file is closed: its number may be another file's next
            if _signed(file) == me:
                with contextlib.suppress(OSError):
                    file.truncate(0)


def owner(path: Path, now: float | None = None) -> Owner | None:
    """Who holds the lock file `path`; None where nobody does. Nothing is changed, and nothing held for longer than an instant.

    Args:
        now: the time on that file system, from `file_system_time`; None: of this host's clock, good enough to show.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError:
        return None
    with file:
        signed = _signed(file)
        free = _is_free(file)
        age = (time.time() if now is None else now) - os.fstat(file.fileno()).st_mtime
    if not free:
        return signed or UNKNOWN
    elsewhere = signed is not None and signed.host != socket.gethostname()
    return signed if elsewhere and age < STALE_SECONDS else None


def last_beat(path: Path) -> float | None:
    """When the lock file's owner, or its last one, gave a sign of life, in the time of its file system."""
    try:
        with path.open("rb") as file:  # to open it makes a network file system ask for its time
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def file_system_time(directory: Path) -> float:
    """The time on this file system, by a file without a name; this host's where nothing may be written."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _take(file: BinaryIO, path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            age = file_system_time(path.parent) - os.fstat(file.fileno()).st_mtime
            raise Held(path, _signed(file) or UNKNOWN, age)
        time.sleep(0.02)


def _is_free(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _outlast_other_host(file: BinaryIO, path: Path) -> None:
    """Where another host's process has signed, wait until it gives a sign of life (refused) or has been silent for too long."""
    signed = _signed(file)
    if signed is None or signed.host == socket.gethostname():
        return
    first, told = last_beat(path), False
    while (beat := last_beat(path)) is not None:
        age = file_system_time(path.parent) - beat
        if beat != first:
            raise Held(path, _signed(file) or signed, age)
        if age >= STALE_SECONDS:
            break
        if not told:
            log.info("%s was held by %s; it is taken over unless that one gives a sign of life", path.parent, signed)
            told = True
        time.sleep(min(1.0, BEAT_SECONDS))
    log.warning("%s is taken over from %s: no heartbeat for %.0f s", path.parent, signed, STALE_SECONDS)


def _beat(file: BinaryIO, path: Path, me: Owner, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        if _signed(file) not in (me, None):
            # This host was cut off or asleep for so long that another one went on with the run: two would spoil it.
            log.error("%s was taken over by %s; this process ends", path.parent, _signed(file))
            os.kill(os.getpid(), signal.SIGTERM)
            return
        with contextlib.suppress(OSError):  # a file system that fails for a while
            os.utime(file.fileno())


def _signed(file: BinaryIO) -> Owner | None:
    """What stands in the lock file; None where it is empty or half-written."""
    try:
        said = json.loads(os.pread(file.fileno(), 4096, 0))
        return Owner(str(said["host"]), int(said["pid"]), str(said["started"]), str(said["purpose"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
