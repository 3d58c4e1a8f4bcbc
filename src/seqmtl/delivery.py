"""Brings a journal to MLflow: all of it, nothing twice, whatever was killed or away in between.

Unusual: a note of how far it was sent is not believed after a kill or an error, as what was sent last may or may not have arrived.
MLflow is asked what it has, and gets the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqmtl.journal import Journal
from seqmtl.mlflow_store import Store

MAX_BATCH = 1000  # metrics in one call, MLflow's limit


class Delivery:
    """Of one journal to one store.

    Args:
        folder: holds the journal, and gets mlflow.sent and mlflow_run_id.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.journal = Journal(folder)
        self.journal.append(())  # drops a last line that a killed process left unfinished
        self.store = store
        mark = self.journal.mark()
        here = mark.get("server") == store.name
        self.run_id: str = mark["run_id"] if here else ""
        self.offset: int = mark["offset"] if here else 0
        self.certain = False  # that MLflow has what is before the offset, and of what is behind it no more than `arrived`
        self.arrived: dict[str, int] = {}
        if not here:
            self._note(self.offset)

    def send(self) -> int:
        """Send what waits; the number of points.

        Raises:
            Away: later, please.
            SeqmtlError: MLflow refuses.
        """
        if self.offset >= self.journal.size and self.run_id:
            return 0
        sent = 0
        try:
            if not self.certain:
                self._look()
            points: list[dict[str, Any]] = []
            end = self.offset
            for entry, after in self.journal.read(self.offset):
                if "metric" not in entry or len(points) == MAX_BATCH:
                    sent += self._send_points(points, end)
                    points = []
                if "metric" in entry:
                    points.append(entry)
                elif "run" in entry:
                    self.store.describe(self.run_id, entry["run"])
                else:
                    self.store.set_status(self.run_id, entry["status"], entry["time"])
                end = after
                if not points:
                    self._note(end)
            return sent + self._send_points(points, end)
        except BaseException:
            self.certain = False
            raise

    def _send_points(self, points: list[dict[str, Any]], end: int) -> int:
        new = [p for p in points if p["step"] > self.arrived.get(p["metric"], -1)]
        if new:
            self.store.log(self.run_id, new)
        if points:
            self._note(end)
        return len(new)

    def _look(self) -> None:
        """Find the run or begin it, and ask what it has of what was not noted as sent."""
        if self.run_id and not self.store.has(self.run_id):
            self.run_id = ""  # deleted, or the server lost it: it gets all there is
        self.arrived = {}
        if not self.run_id:
            header = self.journal.header()
            assert header is not None
            self.run_id = self.store.find(header)
            created = not self.run_id
            self.run_id = self.run_id or self.store.create(header)
            self._note(0)
            (self.journal.folder / "mlflow_run_id").write_text(self.run_id)
            if created:
                self.certain = True
                return
        waiting = {entry["metric"] for entry, _ in self.journal.read(self.offset) if "metric" in entry}
        self.arrived = self.store.last_steps(self.run_id, waiting) if waiting else {}
        self.certain = True

    def _note(self, offset: int) -> None:
        self.offset = offset
        self.journal.write_mark(self.store.name, self.run_id, offset)
