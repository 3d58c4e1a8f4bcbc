"""How fast seqmtl is beside its peers: `make bench`, or `python benchmarks/bench.py --only train infer`.

Rows are made once, in Ali-CCP's shape (18 fields, 1.28 M ids, drawn by Zipf's law; two steps), and all contenders train on the
same ones, in the same batches and sizes, each as its users use it. The peers are installed into an environment of their own. Every
contender is one process that imports, warms up on two batches, and waits for its turn; turns alternate, so that a machine that
grows slower is slower for all. Medians are told, and the least and the most. outputs/bench/ gets results.json and results.md; what
is not measured this time stays in them as it was.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from peers.environment import python_of_peers
from seqmtl.bench.rows import VOCABULARY, RowMaker, scaled, write_rows
from suite.compare import Setting, compare
from suite.data import convert, stream
from suite.models import APEM_BATCH, BATCH, DIMS, SIZES
from suite.results import WHAT, Result, facts, update
from suite.scaling import scaling
from suite.startup import startup

DEFAULT = ("train", "infer", "stream", "startup")


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with what --quick makes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WHAT, default=DEFAULT, help="train infer stream startup unless said otherwise")
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--dims", nargs="+", type=int, default=list(DIMS))
    parser.add_argument("--rows", type=int, default=40_000, help="training rows, and twice as many test rows (40000)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contender (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each contender (all cores)")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--peers", type=Path, help="the peers' environment; made where it is not there (<out>/peers)")
    parser.add_argument("--no-peers", action="store_true", help="measure seqmtl alone")
    parser.add_argument("--quick", action="store_true", help="sizes at which numbers say nothing, to see that all of it runs")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.rows, chosen.repeats, chosen.dims = min(chosen.rows, 2 * BATCH), 1, chosen.dims[:1]
    if chosen.rows < BATCH or chosen.repeats < 1:
        parser.error(f"--rows must be at least {BATCH} and --repeats at least 1")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    chosen = options(argv)
    known = facts(chosen.threads) | {"repeats": chosen.repeats}
    with tempfile.TemporaryDirectory(prefix="seqmtl-bench-") as scratch:
        data = Path(scratch) / "rows"
        if {"train", "infer"} & set(chosen.only):
            sizes = scaled(0.01) if chosen.quick else VOCABULARY
            rows = {"train": chosen.rows, "valid": 1000, "test": 2 * chosen.rows}
            write_rows(data, RowMaker(sizes, ("click", "purchase")), rows)
        for measure in parts(chosen, data):
            for what, entries in measure().items():
                update(chosen.out, what, entries, known)
    print(f"the results lie in {chosen.out}: results.json, results.md")
    return 0


def parts(chosen: argparse.Namespace, data: Path) -> Iterator[Callable[[], dict[str, list[Result]]]]:
    """What is to be measured, one after the other, so that each is written as soon as it is there."""
    only, repeats, threads = chosen.only, chosen.repeats, chosen.threads
    compared = [kind for kind in ("train", "infer") if kind in only]
    if compared:
        python = None if chosen.no_peers else python_of_peers((chosen.peers or chosen.out / "peers").absolute())
        batches = 2 if chosen.quick else max(2, chosen.rows // 4 // APEM_BATCH)
        setting = Setting(data, python, tuple(chosen.models), tuple(chosen.dims), repeats, threads, batches)
        yield lambda: compare(setting, compared)
    if "stream" in only:
        yield lambda: {"stream": stream(20_000 if chosen.quick else 1_000_000, repeats, threads)}
    if "convert" in only:
        yield lambda: {"convert": convert(4_000 if chosen.quick else 2_000_000, repeats)}
    if "startup" in only:
        yield lambda: {"startup": startup(repeats, threads)}
    if "scaling" in only:
        yield lambda: {"scaling": scaling(chosen.out, chosen.quick, repeats, threads)}


if __name__ == "__main__":
    sys.exit(main())
