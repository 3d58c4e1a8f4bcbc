"""Directories that are there whole or not at all.

Unusual: a kill at any moment leaves at most `.<name>.partial` (thrown away by the next run) and `.<name>.old` (brought back by
the next run if nothing took its place). The lock file is removed by its holder, hence the look at its inode.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from seqmtl.disk import disk_errors, sync_directory


@contextmanager
def locked(target: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds `.<name>.lock` beside `target`; calls `waiting` once if another process holds it."""
    path = target.parent / f".{target.name}.lock"
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = _acquire(path, waiting)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _acquire(path: Path, waiting: Callable[[], None]) -> int:
    told = False
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                waiting()
                told = True
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)  # its holder removed the file while we waited: this lock guards nothing


def recover(target: Path) -> None:
    """Puts right what a killed run left beside `target`. The caller holds the lock."""
    partial, old = _beside(target)
    with disk_errors(target):
        if partial.exists():
            shutil.rmtree(partial)
        if old.exists():
            if target.exists():
                shutil.rmtree(old)
            else:
                old.replace(target)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `target` if the block ends well, and vanishes if not.

    The caller holds the lock.
    """
    recover(target)
    partial, old = _beside(target)
    with disk_errors(partial):
        partial.mkdir(parents=True)
    try:
        yield partial
        with disk_errors(target):
            sync_directory(partial)
            if target.exists():
                target.replace(old)
            partial.replace(target)
            sync_directory(target.parent)
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not target.exists():
            old.replace(target)
        raise


def _beside(target: Path) -> tuple[Path, Path]:
    return target.parent / f".{target.name}.partial", target.parent / f".{target.name}.old"
