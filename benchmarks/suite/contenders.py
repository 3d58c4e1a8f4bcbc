"""Processes that take turns: each is asked by a line of JSON and answers by one (peers/turns.py)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import IO, Any

BENCHMARKS = Path(__file__).parents[1]
WARM_UP = 2  # batches of a first training that is not counted


class FailedError(RuntimeError):
    """A contender ended instead of answering; what it said last."""


def environment(threads: int) -> dict[str, str]:
    """Of all contenders: the same number of threads, and modules from benchmarks/."""
    path = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path), "TQDM_DISABLE": "1"}


class Contender:
    """One process.

    Args:
        name: in the results.
        command: that starts it.
        threads: of its computations.
    """

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        self.name = name
        self.said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed when the process is)
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=environment(threads)
        )

    def __enter__(self) -> Contender:
        self.versions: dict[str, str] = self._answer()["versions"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()

    def turn(self, what: str, batches: int | None = None) -> dict[str, Any]:
        """Train from fresh weights, or infer with the model that was trained last.

        Raises:
            FailedError: the process ended.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: there is no answer
            print(json.dumps({"what": what, "batches": batches}), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.said.seek(0)
            raise FailedError(f"{self.name} ended with status {self.process.returncode}:\n{self.said.read()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def command_of(
    name: str, data: Path, model: str, dim: int, batch: int, threads: int, peers: Path, words: Sequence[str] = ()
) -> list[str]:
    """What starts a contender: `seqmtl`, `plain`, `torch-rechub` or `DeepCTR-Torch`.

    Args:
        peers: the interpreter of the peers' environment.
        words: overrides of seqmtl.
    """
    module = {"torch-rechub": "peers.rechub", "DeepCTR-Torch": "peers.deepctr", "plain": "suite.plain_apem"}.get(name, "suite.ours")
    python = str(peers) if module.startswith("peers.") else sys.executable
    options = ["--data", str(data), "--model", model, "--dim", str(dim), "--batch", str(batch), "--threads", str(threads)]
    return [python, "-m", module, *options, "--", *words]


def spread(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Rows per second of several turns: the median, the least, the most; and the most memory."""
    speeds = [answer["rows"] / answer["seconds"] for answer in answers]
    return {
        "rows_per_second": median(speeds),
        "low": min(speeds),
        "high": max(speeds),
        "peak_mb": max(answer["peak_mb"] for answer in answers),
    }
