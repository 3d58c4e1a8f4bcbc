"""Rows before they meet a model: the stream beside torch's DataLoader, and the converter of Ali-CCP."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from aliccp_converter import ours
from seqmtl.bench.rows import VOCABULARY, RowMaker, write_rows
from seqmtl.data.meta import read_meta
from seqmtl.simulate.aliccp import simulate
from suite.contenders import BENCHMARKS, environment, spread
from suite.models import BATCH
from suite.results import Result, compared, result

SOURCES = (("memory", 0), ("memory", 1), ("disk", 1))
PEER = "torch DataLoader"


def stream(rows: int, repeats: int, threads: int) -> list[Result]:
    """An epoch of batches from memory and from the disk, each in a process of its own (stream.py)."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "rows"
        write_rows(data, RowMaker(VOCABULARY, ("click", "purchase")), {"train": rows, "valid": 1, "test": 1})
        answers = _epochs(data, repeats, threads)
    theirs = spread(answers["peer", 0])
    found = []
    for source, workers in SOURCES:
        detail = f"from {source}, {workers} worker{'s' * (workers != 1)}"
        found.append(compared("stream", spread(answers[source, workers]), PEER, theirs, batch=BATCH, detail=detail))
        print(f"stream {detail}: {found[-1]['rows_per_second']:,.0f} rows/s, {found[-1]['ratio']:.1f}x of {PEER}", flush=True)
    return found


def _epochs(data: Path, repeats: int, threads: int) -> dict[tuple[str, int], list[dict[str, Any]]]:
    answers: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(repeats):
        for source, workers in (*SOURCES, ("peer", 0)):
            command = [sys.executable, str(BENCHMARKS / "stream.py"), "--batch", str(BATCH), "--json"]
            command += ["--one", str(data), source, str(workers)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(threads))
            answers.setdefault((source, workers), []).append(json.loads(done.stdout))
    return answers


def convert(rows: int, repeats: int) -> list[Result]:
    """`seqmtl prepare dataset=aliccp` on simulated raw files (aliccp_converter.py), as a whole process."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw"
        raw.mkdir()
        simulate(raw, train_rows=rows, test_rows=rows // 2)
        answers = []
        for turn in range(repeats):
            place = Path(scratch) / str(turn)
            place.mkdir()
            cost = ours(raw, place)
            meta = read_meta(place / "ours")
            n = sum(meta.rows.values()) + sum(meta.dropped.values())
            answers.append({"rows": n, "seconds": cost.seconds, "peak_mb": cost.mebibytes})
    found = result("convert", **spread(answers), detail=f"{answers[0]['rows']:,} raw rows")
    print(f"convert: {found['rows_per_second']:,.0f} rows/s", flush=True)
    return [found]
