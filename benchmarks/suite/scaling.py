"""Seconds and memory against the size of everything: one axis at a time, a process for each point, then two ranks beside one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from seqmtl.bench.rows import VOCABULARY, RowMaker, scaled, write_rows
from suite.contenders import WARM_UP, Contender, command_of, environment, spread
from suite.fits import plot, summary
from suite.models import BATCH, overrides
from suite.results import Result, result

TASKS = ("click", "purchase")
FIELD_SIZE = 10_000  # of each field where their number grows
EVALUATION = {"valid": 1000, "test": 1000}
DIM = 5


@dataclass(frozen=True)
class Point:
    """One measurement.

    Args:
        value: on the axis.
        sizes, tasks, histories: of the rows.
        rows: of an epoch.
        model: that is trained.
    """

    value: float
    rows: int
    sizes: dict[str, int] = field(default_factory=lambda: dict(VOCABULARY))
    tasks: tuple[str, ...] = TASKS
    histories: dict[str, int] = field(default_factory=dict)
    model: str = "aitm"

    def words(self, threads: int) -> list[str]:
        """The overrides of seqmtl."""
        if not self.histories:
            return overrides(self.model, DIM, BATCH, "adam", threads)
        words = [f"model={self.model}", "loss=bce", f"batch_size={BATCH}", f"trainer.threads={threads}", "dataset.main_history=h0"]
        return words + [f"+dataset.histories.{name}={{max_len: {most}}}" for name, most in self.histories.items()]


def points(quick: bool) -> dict[str, list[Point]]:
    """The points of each axis, from the smallest."""
    n, less = (4_000, 100) if quick else (200_000, 1)
    total = sum(VOCABULARY.values())
    small = scaled(0.01) if quick else dict(VOCABULARY)
    chains = {k: tuple(f"step{t}" for t in range(k)) for k in (2, 4, 8)}
    return {
        "rows": [Point(m / less, round(m / less), small) for m in (0.2e6, 0.5e6, 1e6, 2e6, 4e6, 8e6)[: 2 if quick else None]],
        "vocabulary": [
            Point(sum(sizes.values()), n, sizes)
            for sizes in (scaled(m / less / total) for m in (0.1e6, 0.3e6, 1e6, 3e6, 10e6)[: 2 if quick else None])
        ],
        "fields": [Point(k, n, {f"f{i}": FIELD_SIZE // less for i in range(k)}) for k in (6, 18, 36, 72)[: 2 if quick else None]],
        "tasks": [Point(k, n, small, chains[k]) for k in (2, 4, 8)[: 2 if quick else None]],
        "history items": [
            Point(most, min(n, 50_000), small, TASKS, {"h0": most}, "din") for most in (10, 50, 200)[: 2 if quick else None]
        ],
    }


def scaling(folder: Path, quick: bool, repeats: int, threads: int) -> list[Result]:
    """All axes, with their plots in `folder`; then one rank against two."""
    found = []
    for axis, some in points(quick).items():
        measured = [_measure(axis, point, repeats, threads) for point in some]
        found += [*measured, summary(axis, measured)]
        print(f"scaling with {axis}: {found[-1]['detail']}", flush=True)
        plot(folder / f"scaling_{axis.replace(' ', '_')}.png", axis, measured)
    return found + ranks(quick, repeats, threads)


def _measure(axis: str, point: Point, repeats: int, threads: int) -> Result:
    """An epoch of one point, in a process of its own, so that peak memory is that of the point."""
    with TemporaryDirectory() as scratch:
        data = Path(scratch) / "rows"
        write_rows(data, RowMaker(point.sizes, point.tasks, point.histories), {"train": point.rows, **EVALUATION})
        command = command_of("seqmtl", data, point.model, DIM, BATCH, threads, Path(), point.words(threads))
        with Contender(f"{axis} {point.value:,.0f}", command, threads) as contender:
            contender.turn("train", WARM_UP)
            answers = [contender.turn("train") for _ in range(repeats)]
    found = result(
        "scaling", model=point.model, dim=DIM, batch=BATCH, optimizer="adam", axis=axis, value=point.value, **spread(answers)
    )
    found["seconds"] = median(answer["seconds"] for answer in answers)
    print(f"{axis} {point.value:,.0f}: {found['seconds']:.2f} s, {found['peak_mb']:,.0f} MB", flush=True)
    return found


def ranks(quick: bool, repeats: int, threads: int) -> list[Result]:
    """Training rows per second of the whole command `seqmtl` with two gloo ranks beside one, each rank with one thread."""
    speeds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    sizes, rows = (scaled(0.01), 4_000) if quick else (dict(VOCABULARY), 200_000)
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_rows(place / "data" / "aliccp_sim", RowMaker(sizes, TASKS), {"train": rows, **EVALUATION})
        for turn in range(repeats):
            for n, answers in speeds.items():
                output = place / f"outputs{turn}_{n}"
                words = [
                    *overrides("aitm", DIM, BATCH, "adam", 1),
                    f"trainer.devices={n}",
                    "trainer.max_epochs=1",
                    f"output_dir={output}",
                ]
                command = [sys.executable, "-m", "seqmtl.cli", *words, "trainer.progress=none"]
                subprocess.run(command, cwd=place, env=environment(1), check=True, capture_output=True)
                status = json.loads(next(output.rglob("status.json")).read_text(encoding="utf-8"))
                answers.append({"rows": rows, "seconds": rows / _speed(status), "peak_mb": 0.0})
    one, two = spread(speeds[1]), spread(speeds[2])
    cores = os.cpu_count() or 1
    print(f"two ranks: {two['rows_per_second']:,.0f} rows/s, one: {one['rows_per_second']:,.0f}, on {cores} cores", flush=True)
    return [
        result(
            "scaling",
            **{"model": "aitm", "dim": DIM, "batch": BATCH, "optimizer": "adam", "axis": "ranks", "value": 2},
            rows_per_second=two["rows_per_second"],
            low=two["low"],
            high=two["high"],
            peer="one rank",
            peer_rows_per_second=one["rows_per_second"],
            peer_low=one["low"],
            peer_high=one["high"],
            ratio=two["rows_per_second"] / one["rows_per_second"],
        )
    ]


def _speed(status: dict[str, object]) -> float:
    """`train_rows_per_second`, wherever status.json keeps the times of a finished run."""
    found = status.get("train_rows_per_second") or status["times"]["train_rows_per_second"]  # type: ignore[index]
    return float(found)  # type: ignore[arg-type]
