"""Files that are complete or as they were, and disk errors in words."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqmtl.errors import SeqmtlError

_TO_DO = {
    errno.ENOSPC: ("no space left on the disk", "make room there or choose another place (data_dir, output_dir)"),
    errno.EDQUOT: ("the disk quota is used up", "make room there or choose another place (data_dir, output_dir)"),
    errno.EFBIG: (
        "the file would be larger than is allowed here",
        "raise the limit (ulimit -f) or choose another place (data_dir, output_dir)",
    ),
    errno.EACCES: ("permission denied", "make it writable or choose another place (data_dir, output_dir)"),
    errno.EPERM: ("permission denied", "make it writable or choose another place (data_dir, output_dir)"),
    errno.EROFS: ("the disk is read-only", "choose another place (data_dir, output_dir)"),
    errno.ENOTDIR: ("a part of the path is a file, not a directory", "choose another place (data_dir, output_dir)"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n 1024)"),
    errno.EEXIST: ("a file stands where a directory should be", "move it away or choose another place (data_dir, output_dir)"),
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of writing to `path` into words: where, why, what to do."""
    try:
        yield
    except OSError as e:
        cause, to_do = _TO_DO.get(
            e.errno or 0, (e.strerror or str(e), "look at the disk or choose another place (data_dir, output_dir)")
        )
        where = e.filename if isinstance(e.filename, str) else str(path)
        raise SeqmtlError(f"could not write {where}: {cause}; {to_do}. Nothing half-written was kept.") from e


def write_file(path: Path, data: bytes | memoryview, previous: Path | None = None) -> None:
    """Writes a file under a temporary name, brings it to the disk, and renames it: complete, or as it was.

    What stood there is kept as `previous`, where one is given: at every moment one of the two is whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for whoever is in a block with this lock file, and hold it."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_directory(directory: Path) -> None:
    """Brings renames inside `directory` to the disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
