"""Kills at random moments: `python benchmarks/chaos.py`, or `make chaos`; SEED=… repeats what was drawn.

One job, one sweep, one rank of two and one writer of MLflow's database get SIGKILL, again and again, and the same command is run
again until it ends. Its runs are compared with those of a command that nobody disturbed: metrics.json and test_logits.npy bit for
bit, every point in MLflow, and what is left behind: processes, temporary files, half-written ones. The table goes to the standard
output as Markdown, or with --write between the marks of a document. Linux alone: processes are found in /proc.

When a command is killed is drawn: in one of five cases at any time since it began, else some tenths of a second after it wrote one,
two or three more checkpoints, so that it gets on. MLflow's writer is killed while a transaction is open.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_compare import Found, compare
from chaos_kills import PREPARE, Place, Strike, kill_command, kill_rank, kill_writer, orphans, polls

TINY = ("batch_size=64", "trainer.max_epochs=4", "trainer.patience=4", "trainer.threads=1", "trainer.progress=none")
OFTEN = ("trainer.checkpoint_every=10", "trainer.log_every=5")
BEGIN, END = "<!-- chaos -->", "<!-- /chaos -->"


@dataclass(frozen=True)
class Kind:
    """Whom to kill how often: `words` gives the command of the n-th round, `strike` waits and kills; False: it had ended."""

    name: str
    kills: int
    words: Callable[[int], tuple[str, ...]]
    strike: Strike


def try_kind(kind: Kind, place: Place, rng: random.Random) -> Found:
    """As many rounds as the kills need: each a command that is killed again and again, and one that is not."""
    found = Found()
    began = time.monotonic()
    while found.kills < kind.kills:
        number = found.jobs + 1
        words = kind.words(number)
        calm, rough = f"{kind.name}-{number}-calm", f"{kind.name}-{number}-killed"
        _finish(place, words, calm)
        while found.kills < kind.kills:
            process = place.start(words, rough)
            if not kind.strike(place, process, place.root / rough, rng):
                break
            found.kills += 1
            found.orphans += orphans(place, process)
            print(f"{kind.name}: kill {found.kills} of {kind.kills}", file=sys.stderr, flush=True)
        _finish(place, words, rough)
        compare(place.root / calm, place.root / rough, found)
    found.seconds = time.monotonic() - began
    return found


def _finish(place: Place, words: tuple[str, ...], output: str) -> None:
    process = place.start(words, output)
    for _ in polls(process, 0.05):
        pass
    if process.returncode != 0:
        said = (place.root / f"{output}.log").read_text(errors="replace")
        raise SystemExit(f"{' '.join(words)} ended with the status {process.returncode}:\n{said[-3000:]}")


def kinds() -> list[Kind]:
    job = ("model=man", *TINY, *OFTEN, "+model.stages.meta.trainer.max_epochs=2")
    sweep = ("-m", "model=aitm,apem", "trainer.max_epochs=3", *TINY[:1], *TINY[2:], *OFTEN)
    ranks = ("model=mmoe", "trainer=ddp", "trainer.accelerator=cpu", *TINY, *OFTEN)
    writer = ("model=shared_bottom", *TINY, "trainer.checkpoint_every=10", "trainer.log_every=1")
    return [
        Kind("job", 20, lambda n: (*job, f"seed={n}"), kill_command),
        Kind("sweep", 10, lambda n: (*sweep, f"seed={n},{n + 1}"), kill_command),
        Kind("rank", 5, lambda n: (*ranks, f"seed={n}"), kill_rank),
        Kind("writer", 5, lambda n: (*writer, f"seed={n}"), kill_writer),
    ]


TITLES = {
    "job": "a job (MAN: two stages, MAML, dropout)",
    "sweep": "a sweep (AITM and APEM, two seeds)",
    "rank": "one of two ranks (gloo)",
    "writer": "a job while it writes to MLflow's database",
}


def table(results: dict[str, Found], seed: int) -> str:
    machine = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}"
    today = datetime.datetime.now(datetime.UTC).date()
    head = ["killed", "kills", "jobs", "equal bit for bit", "started anew", "finished in MLflow", "cut off in MLflow"]
    head += ["points missing, twice or other", "orphans", "files left", "minutes"]
    lines = [f"`make chaos SEED={seed}`, {today}, {machine}:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, f in results.items():
        values = [f.kills, f.jobs, f.equal, f.anew, f.mlflow, f.cut, f.points, f.orphans, f.left, f"{f.seconds / 60:.1f}"]
        lines.append(f"| {TITLES[name]} | {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def write(document: Path, text: str) -> None:
    """Put the table between the marks."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{document} lacks the marks {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="kill jobs, sweeps, ranks and writers; compare with undisturbed runs")
    parser.add_argument("--seed", default="", help="of the moments; drawn where it is empty")
    parser.add_argument("--only", choices=list(TITLES), help="one kind of kill")
    parser.add_argument("--kills", type=int, help="how many, instead of 20, 10, 5 and 5")
    parser.add_argument("--write", type=Path, help="a document to put the table into")
    parser.add_argument("--keep", action="store_true", help="keep the runs")
    arguments = parser.parse_args()
    seed = int(arguments.seed or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}", file=sys.stderr, flush=True)
    place = Place(Path(tempfile.mkdtemp(prefix="seqmtl-chaos-")))
    results: dict[str, Found] = {}
    try:
        _finish(place, PREPARE, "prepare")
        for kind in kinds():
            if arguments.only in (None, kind.name):
                drawn = random.Random(f"{seed} {kind.name}")
                fewer: Any = arguments.kills or kind.kills
                results[kind.name] = try_kind(Kind(kind.name, fewer, kind.words, kind.strike), place, drawn)
    finally:
        for pid in place.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if arguments.keep:
            print(f"the runs lie in {place.root}", file=sys.stderr)
        else:
            shutil.rmtree(place.root, ignore_errors=True)
    text = table(results, seed)
    print(text)
    if arguments.write:
        write(arguments.write, text)
    bad = [name for name, found in results.items() if not found.good]
    if bad:
        print(f"not as undisturbed: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
