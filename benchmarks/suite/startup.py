"""How long a user waits before anything is trained: whole commands, from their start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from seqmtl.bench.rows import RowMaker, scaled, write_rows
from suite.contenders import environment
from suite.results import Result, result

ROWS = {"train": 20_000, "valid": 2_000, "test": 2_000}
SMALL = ("model=mmoe", "trainer=debug", "trainer.progress=lines", "batch_size=500")
FIRST_STEP = (*SMALL, "trainer.checkpoint_every=1")  # the first step is over when its checkpoint is there
SWEEP = (*SMALL, "-m", "seed=1,2,3,4,5,6,7,8")
CHECKPOINT = "last.ckpt"


def startup(repeats: int, threads: int) -> list[Result]:
    """Seconds of four commands; each has run once before, so that files are compiled and in the page cache."""
    found = []
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_rows(place / "data" / "aliccp_sim", RowMaker(scaled(0.01), ("click", "purchase")), ROWS)
        cases = (
            ("seqmtl --help", lambda: _whole(("--help",), place, threads)),
            ("seqmtl --cfg job", lambda: _whole(("--cfg", "job"), place, threads)),
            ("to the end of the first training step", lambda: _first_step(place, threads)),
            ("a sweep of 8 small jobs", lambda: _sweep(place, threads)),
        )
        for name, measure in cases:
            measure()
            seconds = [measure() for _ in range(repeats)]
            found.append(
                result("startup", detail=name, seconds=median(seconds), seconds_low=min(seconds), seconds_high=max(seconds))
            )
            print(f"startup, {name}: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)
    return found


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "seqmtl.cli", *words]


def _whole(words: Sequence[str], place: Path, threads: int) -> float:
    started = time.perf_counter()
    subprocess.run(_command(words), cwd=place, env=environment(threads), check=True, capture_output=True)
    return time.perf_counter() - started


def _sweep(place: Path, threads: int) -> float:
    return _whole((*SWEEP, f"output_dir={_fresh(place)}"), place, threads)


def _first_step(place: Path, threads: int) -> float:
    """From the start of the command until the checkpoint of the first optimizer step is there."""
    output = _fresh(place)
    started = time.perf_counter()
    command = _command((*FIRST_STEP, f"output_dir={output}"))
    process = subprocess.Popen(command, cwd=place, env=environment(threads), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds = None
    while process.poll() is None:
        if seconds is None and _has_trained(output):
            seconds = time.perf_counter() - started
        time.sleep(0.01)
    _, said = process.communicate()
    if process.returncode or seconds is None:
        sys.exit(f"{' '.join(command)} failed, or ended before its first step was seen:\n{said.decode()}")
    return seconds


def _has_trained(output: Path) -> bool:
    return next(output.rglob(CHECKPOINT), None) is not None


def _fresh(place: Path) -> Path:
    """An output directory that no run is in, so that nothing is skipped."""
    output = place / f"outputs{len(list(place.glob('outputs*')))}"
    output.mkdir()
    return output
