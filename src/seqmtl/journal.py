"""RUN_DIR/mlflow.jsonl: all that MLflow is to know of one run, in the order in which it happened.

    {"run": {"key": …, "experiment": …, "name": …, "start": …, "tags": {…}, "params": {…}, "config": "…"}}     the first line
    {"metric": "train/loss", "value": 0.31, "step": 20, "time": 1700000000000}
    {"status": "FINISHED", "time": 1700000000000}

Unusual: it is written first and sent afterwards, so that a server which is away loses nothing. mlflow.sent says how far it was
sent: a hint that may be lost or behind (delivery.py).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqmtl.disk import disk_errors, write_file

log = logging.getLogger("seqmtl")

FILES = ("mlflow.jsonl", "mlflow.sent", "mlflow_run_id")


class Journal:
    """The journal in `folder`: a run directory, or an attempt-<n>/ in it. The caller holds the run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "mlflow.jsonl"

    @property
    def size(self) -> int:
        """Bytes; 0 where there is no journal."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def header(self) -> dict[str, Any] | None:
        """What the run was begun with; None where there is no whole journal."""
        first, _ = next(self.read(), ({}, 0))
        return first.get("run")

    def status(self) -> str:
        """What was noted last; RUNNING before anything was."""
        return next((entry["status"] for entry, _ in reversed([*self.read()]) if "status" in entry), "RUNNING")

    def begin(self, header: Mapping[str, Any]) -> None:
        """Start a journal; there is none, or none that is whole."""
        write_file(self.path, _lines([{"run": header}]))

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add entries, and bring them to the disk.

        Raises:
            SeqmtlError: the disk is full, or refuses.
        """
        with disk_errors(self.path), self.path.open("r+b") as file:
            _cut_torn_line(file)
            file.write(_lines(entries))
            file.flush()
            os.fsync(file.fileno())

    def read(self, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Each entry from byte `offset` on, and where it ends. A last line that a killed process left unfinished is not one."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    log.warning("%s has a line that cannot be read, which MLflow will not get: %.40r", self.path, line)
                    continue
                yield entry, offset

    def mark(self) -> dict[str, Any]:
        """What mlflow.sent says: {server, run_id, offset}; {} where it is missing or damaged."""
        try:
            mark = json.loads((self.folder / "mlflow.sent").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return mark if isinstance(mark, dict) and {"server", "run_id", "offset"} <= mark.keys() else {}

    def write_mark(self, server: str, run_id: str, offset: int) -> None:
        """Say how far it was sent; without fsync, as losing it costs a question to the server and no more."""
        temporary = self.folder / ".mlflow.sent.tmp"
        with disk_errors(temporary):
            temporary.write_text(json.dumps({"server": server, "run_id": run_id, "offset": offset}), encoding="utf-8")
            temporary.replace(self.folder / "mlflow.sent")

    @property
    def waits(self) -> bool:
        """Whether something was not sent yet, as far as is known."""
        return self.mark().get("offset", 0) < self.size


def _lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def _cut_torn_line(file: Any) -> None:
    """Go to the end of the last whole line, and drop what a killed process left behind it."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    while end and not tail.endswith(b"\n"):
        start = max(0, end - 2**16)
        file.seek(start)
        block = file.read(end - start)
        kept = block.rfind(b"\n") + 1
        tail, end = block[:kept], start + kept
    file.truncate(end)
    file.seek(end)
