"""How a contender waits for its turn: a line of JSON asks on the standard input, a line of JSON answers on the standard output.

Unusual: a contender is one process for all of its turns, so that imports are paid once; between its turns it waits and takes no
processor. What its libraries print goes to the standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Turn = Callable[[str, int | None], dict[str, Any]]


def take_turns(turn: Turn, versions: dict[str, str]) -> None:
    """Say that all is imported, then answer until the standard input ends.

    Args:
        turn: (what, batches or None for all rows) → {rows, seconds, …} of a training from fresh weights (`train`), or of the
            inference of the model that was trained last (`infer`).
        versions: of the libraries.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        found = turn(asked["what"], asked["batches"])
        print(json.dumps(found | {"peak_mb": _peak_mb()}), file=answers, flush=True)


def read_options(about: str) -> argparse.Namespace:
    """The options that every contender has: data, model, dim, batch, infer_batch, threads; and further words."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset: <split>/*.parquet and meta.json")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--infer-batch", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs="*", help="of seqmtl")
    return parser.parse_args()


def _peak_mb() -> float:
    """The most resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss survives exec: it is never below that of the parent
        return next(int(x.split()[1]) / 1024 for x in status.read_text().splitlines() if x.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
