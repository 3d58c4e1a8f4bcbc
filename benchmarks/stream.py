"""How fast batches come, and how much memory that takes: `python benchmarks/stream.py [--rows 10000000] [--batch 2000]`.

Writes shards of random ids (18 fields, Zipf; five histories) into a temporary directory and goes through one epoch in a process of
its own for each line, so that peak memory is that of the line. The peer is what DeepCTR-Torch and torch-rechub do with rows in
memory: torch's DataLoader over a TensorDataset, which fetches row by row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqmtl.data.histories import Histories
from seqmtl.data.meta import read_meta
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.prepare.writer import DatasetWriter
from seqmtl.types import History

FIELDS = [f"f{i}" for i in range(18)]
SIZE = 100_000  # ids of a field
HISTORIES = ["watch", "skip", "click", "like", "enter"]
ITEMS = 20_000_000  # of each flat array
CHUNK = 1_000_000


def write(directory: Path, rows: int) -> None:
    """A dataset of random rows; every history is of 50 items or more."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    writer = DatasetWriter(directory, FIELDS, {"click": None, "purchase": "click"}, histories=dict.fromkeys(HISTORIES, "f0"))
    for name in HISTORIES:
        writer.history(name, rng.integers(0, SIZE, ITEMS, dtype=np.int32))
    for split, n in (("train", rows), ("valid", 1000), ("test", 1000)):
        for start in range(0, n, CHUNK):
            m = min(CHUNK, n - start)
            columns: dict[str, Any] = {name: np.minimum(rng.zipf(1.3, m), SIZE - 1) for name in FIELDS}
            columns["click"] = rng.random(m) < 0.04
            columns |= {"purchase": columns["click"] & (rng.random(m) < 0.1), "_row": np.arange(start, start + m)}
            for name in HISTORIES:
                columns |= {f"{name}_end": rng.integers(60, ITEMS, m), f"{name}_len": rng.integers(50, 60, m)}
            writer.add(split, columns)
    writer.finish(dict.fromkeys(FIELDS, SIZE), {})


class Memory:
    """The peak of this process's own memory (RssAnon: without what is only mapped from files), in MB above the start."""

    def __init__(self) -> None:
        self.start = self.peak = self._now()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def stop(self) -> float:
        self.stopped.set()
        self.thread.join()
        return max(self.peak, self._now()) - self.start

    def _watch(self) -> None:
        while not self.stopped.wait(0.02):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
        return int(line.split()[1]) / 1024


def one(directory: Path, what: str, batch: int, workers: int) -> dict[str, Any]:
    """Goes through an epoch: rows, seconds, and the most memory above the imports in MB."""
    meta = read_meta(directory)
    schema = meta.schema()
    if what == "histories":
        schema = replace(schema, histories=tuple(History(name, "f0", 50) for name in HISTORIES))
    histories = Histories(directory, meta, schema) if schema.histories else None
    memory = Memory()
    shards = Shards(directory, meta, schema, "train")
    batches: Iterable[Any]
    if what == "peer":
        from torch import from_numpy
        from torch.utils.data import DataLoader, TensorDataset

        rows = shards.load()
        batches = DataLoader(TensorDataset(from_numpy(rows.fields), from_numpy(rows.y)), batch, shuffle=True)
    else:
        batches = Stream(shards.load() if what == "memory" else shards, batch, 1, workers=workers, histories=histories)
    started, rows_seen = time.perf_counter(), 0
    for b in batches:
        rows_seen += len(b[0]) if isinstance(b, list) else len(b)
    seconds = time.perf_counter() - started
    assert rows_seen == meta.rows["train"]
    return {"rows": rows_seen, "seconds": seconds, "peak_mb": memory.stop()}


def tell(found: dict[str, Any], what: str, workers: int) -> None:
    name = f"{what}, {workers} workers" if what != "peer" else "peer: DataLoader over TensorDataset"
    speed = f"{found['rows'] / found['seconds'] / 1e6:6.2f} M rows/s"
    print(f"{found['rows']:>12,} rows  {name:<38} {speed}  peak {found['peak_mb']:6.0f} MB above the imports", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--one", nargs=3, metavar=("DIR", "WHAT", "WORKERS"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)  # of --one
    arguments = parser.parse_args()
    if arguments.one:
        directory, what, workers = arguments.one
        found = one(Path(directory), what, arguments.batch, int(workers))
        if arguments.json:
            print(json.dumps(found))
        else:
            tell(found, what, int(workers))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for rows in (arguments.rows // 4, arguments.rows // 2, arguments.rows):
            directory = Path(scratch) / str(rows)
            write(directory, rows)
            lines = [(what, w) for what in ("disk", "memory", "histories") for w in (0, 1, 2)]
            for what, workers in [*lines, *([("peer", 0)] if rows == arguments.rows // 4 else [])]:
                command = [sys.executable, __file__, "--batch", str(arguments.batch), "--one", str(directory), what, str(workers)]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
