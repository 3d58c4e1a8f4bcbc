"""Raw files that a simulator makes: made once for the same options, whole or not at all, and never over anybody else's files.

Unusual: the simulators only write into the directory that they are given; what is said here holds for all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqmtl.disk import disk_errors, write_file
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.atomic import locked, recover, replacing
from seqmtl.prepare.raw import Report

STAMP = "simulation.json"


def ensure_raw(raw_dir: Path, simulate: Callable[..., None], options: Mapping[str, Any], report: Report) -> bool:
    """Calls `simulate(directory, **options)` for `raw_dir`; False if its files are there with the same options.

    Raises:
        SeqmtlError: an option makes no sense, `raw_dir` holds files that no simulation wrote, or the disk refuses.
    """
    name = f"{simulate.__module__}.{simulate.__name__}"
    with locked(raw_dir):
        recover(raw_dir)
        stamp = _stamp(raw_dir)
        _refuse_foreign(raw_dir, stamp)
        if stamp.get("simulator") == name and stamp.get("options") == dict(options) and _whole(raw_dir, stamp):
            return False
        with replacing(raw_dir) as partial:
            with disk_errors(partial):
                simulate(partial, **options, report=report)
                sizes = {path.name: _to_disk(path) for path in sorted(partial.iterdir())}
            stamp = {"simulator": name, "options": dict(options), "files": sizes}
            write_file(partial / STAMP, (json.dumps(stamp, indent=1) + "\n").encode())
    return True


def _stamp(raw_dir: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((raw_dir / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and isinstance(stamp.get("files"), dict) else {}


def _whole(raw_dir: Path, stamp: Mapping[str, Any]) -> bool:
    paths = [(raw_dir / name, size) for name, size in stamp["files"].items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _refuse_foreign(raw_dir: Path, stamp: Mapping[str, Any]) -> None:
    with disk_errors(raw_dir):
        names = {path.name for path in raw_dir.iterdir()} if raw_dir.exists() else set()
    foreign = sorted(names - {*stamp.get("files", {}), STAMP})
    if foreign:
        raise SeqmtlError(
            f"{raw_dir} holds files that no simulation wrote ({', '.join(foreign[:5])}); they are not overwritten:"
            " give another raw_dir, or, if they are the real raw files, the dataset that reads them"
        )


def _to_disk(path: Path) -> int:
    """Brings a file to the disk; its size."""
    with path.open("rb") as f:
        os.fsync(f.fileno())
    return path.stat().st_size
