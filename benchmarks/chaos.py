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
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = ("dataset=aliccp_sim", "dataset.prepare.simulate.train_rows=20000", "dataset.prepare.simulate.test_rows=4000")
TINY = ("batch_size=64", "trainer.max_epochs=4", "trainer.patience=4", "trainer.threads=1", "trainer.progress=none")
OFTEN = ("trainer.checkpoint_every=20", "trainer.log_every=10")
PREPARE = ("prepare",)
TIMES = {"epoch_seconds", "train_rows_per_second", "test_seconds"}  # no two runs have the same; a resumed epoch has none
PATIENCE = 900.0  # seconds after which a command hangs
BEGIN, END = "<!-- chaos -->", "<!-- /chaos -->"


@dataclass(frozen=True)
class Place:
    """Where it all happens, and the mark by which the processes of a command are found."""

    root: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, words: tuple[str, ...], output: str) -> subprocess.Popen[bytes]:
        (self.root / output).mkdir(exist_ok=True)
        own = [f"data_dir={self.root / 'data'}"] + [f"output_dir={self.root / output}"] * (words != PREPARE)
        clean = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with (self.root / f"{output}.log").open("ab") as log:
            command = [sys.executable, "-m", "seqmtl.cli", *words, *DATA, *own]
            return subprocess.Popen(command, env=clean | {"SEQMTL_CHAOS": self.mark}, stdout=log, stderr=log)

    def alive(self) -> dict[int, bytes]:
        """{process: its environment} of all that our commands began."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                if self.mark.encode() in environment and int(process.name) != os.getpid():
                    found[int(process.name)] = environment
        return found


Strike = Callable[[Place, "subprocess.Popen[bytes]", Path, random.Random], bool]


@dataclass(frozen=True)
class Kind:
    """Whom to kill how often: `words` gives the command of the n-th round, `strike` waits and kills; False: it had ended."""

    name: str
    kills: int
    words: Callable[[int], tuple[str, ...]]
    strike: Strike


@dataclass
class Found:
    """What came of it."""

    kills: int = 0
    jobs: int = 0
    equal: int = 0
    anew: int = 0  # started anew where it could have gone on
    mlflow: int = 0  # runs in MLflow that are finished
    cut: int = 0  # runs in MLflow of a start that was killed before its first checkpoint
    points: int = 0  # missing, twice or other
    orphans: int = 0
    left: int = 0  # temporary or half-written files
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.equal == self.mlflow == self.jobs > 0 and not (self.anew or self.points or self.orphans or self.left)


def at_random(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """Wait for a drawn moment; False where the command ended before."""
    writes = 0 if rng.random() < 0.2 else rng.randint(1, 3)
    delay = rng.uniform(0, 0.3) if writes else rng.uniform(0, 15)
    seen = _checkpoints(output)
    for _ in _polls(process, 0.005):
        if writes == 0:
            break
        now = _checkpoints(output)
        writes, seen = writes - (now != seen), now
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    return process.poll() is None


def _checkpoints(output: Path) -> dict[Path, int]:
    found = {}
    for path in output.rglob("last.ckpt"):
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_ino
    return found


def _polls(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Again and again, while the command runs."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"{' '.join(map(str, process.args))} hangs")  # type: ignore[arg-type]
        yield
        time.sleep(seconds)


def kill_command(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """The process that was started; all its children must die with it."""
    if not at_random(place, process, output, rng):
        return False
    process.kill()
    return True


def kill_rank(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """One of the ranks; the others and their command must end of themselves, and not well."""
    if not at_random(place, process, output, rng):
        return False
    for _ in _polls(process, 0.05):
        ranks = sorted(pid for pid, environment in place.alive().items() if b"\0LOCAL_RANK=" in b"\0" + environment)
        if len(ranks) == 2:
            os.kill(rng.choice(ranks), signal.SIGKILL)
            break
    else:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(120) == 0:
            raise SystemExit("a job of two ranks, of which one was killed, ended with the status 0")
    return True  # one that lives on is found by whoever counts orphans


def kill_writer(place: Place, process: subprocess.Popen[bytes], output: Path, rng: random.Random) -> bool:
    """While a transaction of MLflow's database is open: its journal is there."""
    passed = rng.randint(0, 60)
    for _ in _polls(process, 0.0002):
        if any(name.endswith("-journal") for name in os.listdir(output)):  # noqa: PTH208 - as fast as can be
            if passed == 0:
                process.kill()
                return True
            passed -= 1
    return False


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
            found.orphans += _orphans(place, process)
            print(f"{kind.name}: kill {found.kills} of {kind.kills}", file=sys.stderr, flush=True)
        _finish(place, words, rough)
        _compare(place.root / calm, place.root / rough, found)
    found.seconds = time.monotonic() - began
    return found


def _finish(place: Place, words: tuple[str, ...], output: str) -> None:
    process = place.start(words, output)
    for _ in _polls(process, 0.05):
        pass
    if process.returncode != 0:
        said = (place.root / f"{output}.log").read_text(errors="replace")
        raise SystemExit(f"{' '.join(words)} ended with the status {process.returncode}:\n{said[-3000:]}")


def _orphans(place: Place, process: subprocess.Popen[bytes]) -> int:
    """Processes that are left ten seconds after the kill; they are ended here."""
    deadline = time.monotonic() + 10
    while (left := place.alive()) and time.monotonic() < deadline:
        process.poll()  # else it stays as a zombie
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return len(left)


def _compare(calm: Path, rough: Path, found: Found) -> None:
    runs = [path.parent.relative_to(calm) for path in sorted(calm.glob("*/*/*/metrics.json"))]
    found.jobs += len(runs)
    for run in runs:
        same = [_bytes(calm / run / name) == _bytes(rough / run / name) for name in ("metrics.json", "test_logits.npy")]
        found.equal += all(same)
        found.anew += any((rough / run).glob("attempt-*"))
    for path in rough.rglob("*"):
        half = path.suffix == ".ckpt" and not _whole(path)
        found.left += half or path.name.endswith((".tmp", "-journal", ".damaged.ckpt")) or path.name.startswith(".mlflow.db.")
    calm_points, rough_points = _points(calm)[0], _points(rough)
    found.mlflow += sum(len(points) == 1 for points in rough_points[0].values())
    found.cut += rough_points[1]
    for name, points in calm_points.items():
        killed = rough_points[0].get(name, [{}])[0]
        found.points += sum(points[0].get(key) != killed.get(key) for key in points[0].keys() | killed.keys())


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _whole(path: Path) -> bool:
    from seqmtl.checkpoint import DamagedError, read_checkpoint

    try:
        read_checkpoint(path)
    except DamagedError:
        return False
    return True


Points = dict[str, list[tuple[int, float]]]


def _points(output: Path) -> tuple[dict[str, list[Points]], int]:
    """{name of a run: its points, for each run of that name that is finished}, and how many were cut off for good."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    finished: dict[str, list[Points]] = {}
    for run in runs:
        if run.info.status != "KILLED":  # RUNNING is none that a job may leave: it has no points of its end
            keys = run.data.metrics.keys() - TIMES
            histories = {
                key: client.get_metric_history(run.info.run_id, key) for key in keys if key.rpartition("/")[2] not in TIMES
            }
            points = {key: sorted((m.step, m.value) for m in history) for key, history in histories.items()}
            finished.setdefault(run.info.run_name, []).append(points)
    return finished, sum(run.info.status == "KILLED" for run in runs)


def kinds() -> list[Kind]:
    job = ("model=man", *TINY, *OFTEN, "+model.stages.meta.trainer.max_epochs=2")
    sweep = ("-m", "model=aitm,apem", "trainer.max_epochs=3", *TINY[:1], *TINY[2:], *OFTEN)
    ranks = ("model=mmoe", "trainer=ddp", "trainer.accelerator=cpu", *TINY, *OFTEN)
    writer = ("model=shared_bottom", *TINY, "trainer.checkpoint_every=20", "trainer.log_every=1")
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
