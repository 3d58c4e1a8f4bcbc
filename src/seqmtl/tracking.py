"""The MLflow run of one job, also when the job was resumed or MLflow is away.

Unusual: points are kept in memory, then written to the run directory's journal, and only then sent: in batches (a single
log_metric takes 2-10 ms on sqlite), and before every checkpoint, so that what is lost in a crash is what a resumed run computes
again. What cannot be sent waits in the journal, and the training goes on.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqmtl.delivery import MAX_BATCH, Delivery
from seqmtl.errors import SeqmtlError
from seqmtl.journal import FILES, Journal
from seqmtl.mlflow_store import Away, Store
from seqmtl.plural import plural

log = logging.getLogger("seqmtl")

PAUSE_SECONDS = 60.0  # after a failure, before MLflow is tried again


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git_commit() -> str:
    """The commit of the checkout that the code runs from (-dirty where it was changed), or the package's version."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        # An installed package may lie inside a repository of somebody else's.
        if (root / ".git").exists():
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    from seqmtl import __version__

    return f"v{__version__}"


class Tracker:
    """The MLflow run of one job.

    Args:
        output_dir: holds the default database, and artifacts beside it.
        run_dir: is held by the caller; gets the journal, and `mlflow_run_id` as soon as MLflow knows the run.
        config: resolved; logged as params. run_dir/config.yaml becomes the artifact.
        tags: model, loss, step, dataset, seed, config_hash, git_commit, sweep.

    Raises:
        SeqmtlError: MLflow refuses a job that begins. Of a job that goes on nothing may be lost: it is told, and trains on.
    """

    def __init__(self, output_dir: Path, run_dir: Path, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.pending: list[dict[str, Any]] = []
        self.latest: dict[str, int] = {}
        self.again_at = 0.0
        self.store = Store(output_dir)
        journal = Journal(run_dir)
        resumed = journal.header() is not None and journal.status() != "FAILED"
        if resumed:
            self._go_on(journal)
        else:
            _set_aside(journal)
            journal.begin(_header(run_dir, config, tags))
        self.delivery = Delivery(run_dir, self.store)
        try:
            self._begin(run_dir)
        except Away as e:
            self._away(e)
        except SeqmtlError as e:
            if not resumed:
                for name in FILES:
                    (run_dir / name).unlink(missing_ok=True)
                raise
            self._away(e)

    @property
    def client(self) -> Any:
        """MLflow's own, to look at what is there."""
        return self.store.client

    @property
    def run_id(self) -> str:
        """Empty as long as MLflow has not been reached."""
        return self.delivery.run_id

    @property
    def waits(self) -> bool:
        """Whether MLflow has not got everything yet."""
        return bool(self.pending) or self.delivery.journal.waits

    def _go_on(self, journal: Journal) -> None:
        for entry, _ in journal.read():
            if "metric" in entry:
                self.latest[entry["metric"]] = entry["step"]
        if journal.status() != "RUNNING":
            journal.append([_status("RUNNING")])  # cut off after its run was ended and before the job was

    def _begin(self, run_dir: Path) -> None:
        """Send what waits, of earlier attempts first: what never ended was killed."""
        for path in sorted(run_dir.glob("attempt-*/mlflow.jsonl")):
            journal = Journal(path.parent)
            if journal.header() is not None:
                if journal.status() == "RUNNING":
                    journal.append([_status("KILLED")])
                if journal.waits:
                    Delivery(path.parent, self.store).send()
        self.delivery.send()

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Keep the points that are new; what is undefined has no point."""
        now = _now()
        for key, value in values.items():
            if value is not None and step > self.latest.get(key, -1):
                self.latest[key] = step
                self.pending.append({"metric": key, "value": float(value), "step": step, "time": now})
        if len(self.pending) >= MAX_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is kept into the journal, and send it unless MLflow was away a moment ago.

        Raises:
            SeqmtlError: the journal cannot be written.
        """
        self._write([])
        if time.monotonic() >= self.again_at:
            self._send()

    def end(self, status: str) -> None:
        """FINISHED or FAILED."""
        self._write([_status(status)])
        self._send()

    def _write(self, more: list[dict[str, Any]]) -> None:
        if self.pending or more:
            self.delivery.journal.append([*self.pending, *more])
            self.pending.clear()

    def _send(self) -> None:
        try:
            sent = self.delivery.send()
        except SeqmtlError as e:
            self._away(e)
            return
        if self.again_at:
            log.info("%s answers again: sent %s", self.store.name, plural(sent, "point"))
        self.again_at = 0.0

    def _away(self, error: SeqmtlError) -> None:
        if not self.again_at:
            log.warning("%s; metrics are kept in %s and sent later", error, self.delivery.journal.path)
        self.again_at = time.monotonic() + PAUSE_SECONDS


def _now() -> int:
    return int(time.time() * 1000)


def _status(status: str) -> dict[str, Any]:
    return {"status": status, "time": _now()}


def _header(run_dir: Path, config: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """All that begins the run, now or when MLflow is there. Its key tells it from the same job's other attempts."""
    params = {key: str(value) for key, value in flatten(config).items() if key != "dataset.about"}  # a paragraph for people
    step = [tags["step"]] if tags.get("step", "plain") != "plain" else []
    return {
        "key": uuid.uuid4().hex,
        "experiment": tags["dataset"],
        "name": "/".join([tags["model"], tags["loss"], *step, f"seed={tags['seed']}"]),
        "start": _now(),
        "tags": {**tags, "run_dir": f"{socket.gethostname()}:{run_dir.absolute()}"},
        "params": params,
        "config": (run_dir / "config.yaml").read_text(encoding="utf-8"),
    }


def _set_aside(journal: Journal) -> None:
    """Keep the journal of a job that begins anew as an earlier attempt's: its points would stand twice in one run."""
    if journal.header() is None:
        return
    numbers = [path.name.removeprefix("attempt-") for path in journal.folder.glob("attempt-*")]
    attempt = journal.folder / f"attempt-{max((int(n) for n in numbers if n.isdecimal()), default=0) + 1}"
    attempt.mkdir()
    for name in reversed(FILES):  # the journal last: without it the others are nothing
        if (journal.folder / name).exists():
            (journal.folder / name).rename(attempt / name)
