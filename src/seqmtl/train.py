"""`seqmtl [overrides] [-m]`: compose all jobs first, then run them.

Unusual: Hydra composes and nothing more. Its task function only adds a job to a list; what runs the list is a launcher of ours,
each job of a sweep in a process of its own. A single job of one process runs in this one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from seqmtl.build import build
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.plan import Plan, Planned
from seqmtl.runs import Run, config_hash, differences, run_label

if TYPE_CHECKING:
    from seqmtl.launch.local import Job

log = logging.getLogger("seqmtl")


def execute(plan: Plan) -> int:
    """Run the list; the exit status is 0 when every job is finished."""
    if not plan.jobs:
        return 0
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra gives the root logger a handler of its own
    if plan.sweep:
        return _sweep(plan)
    (planned,) = plan.jobs
    return _single(planned)


def _claim(planned: Planned) -> bool:
    """Make the run directory ready for this config; False where the run is finished on these data.

    Raises:
        SeqmtlError: another process is running it.
    """
    run = planned.run
    assert run is not None
    directory, meta = open_dataset(planned.config)
    version = data_version(directory, meta)
    with run.lock():
        if run.finished(version):
            return False
        run.ready(version)
        text = yaml.safe_dump(planned.config, sort_keys=False, allow_unicode=True)
        write_file(run.path / "config.yaml", text.encode())
    return True


def _single(planned: Planned) -> int:
    from seqmtl.report import console, run_table, seconds

    run = planned.run
    assert run is not None
    todo = _claim(planned)
    started = time.monotonic()
    out = console()
    if not todo:
        metrics = run.metrics()
    elif planned.config["trainer"]["devices"] != 1:
        metrics = _ranks(planned, run)
    else:
        from seqmtl import job

        handler = _Printer()
        log.addHandler(handler)
        try:
            metrics = job.run(run.path)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        finally:
            log.removeHandler(handler)
    tasks = planned.config["dataset"]["tasks"]
    out.print(run_table(f"{planned.label} on {planned.config['dataset']['name']}", tasks, metrics))
    took = seconds(time.monotonic() - started) if todo else "finished before, nothing to do"
    print(f"{took}; the run lies in {run.path}")
    _send_rest([planned])
    return 0


def _ranks(planned: Planned, run: Run) -> dict[str, float | None]:
    """A single job of several ranks: processes of its own, as in a sweep."""
    _launch(planned, [planned], "")
    if planned.error:
        raise SeqmtlError(planned.error)
    return run.metrics()


def _launch(first: Planned, jobs: list[Planned], sweep: str) -> None:
    from seqmtl.launch.local import Job

    by_path = {p.run.path: p for p in jobs if p.run is not None}
    started = time.monotonic()
    number = 0

    def ended(job: Job, status: int) -> None:
        nonlocal started, number
        planned = by_path[job.run_dir]
        number += 1
        planned.seconds, started = time.monotonic() - started, time.monotonic()
        if status != 0:
            planned.error = _why(Run(job.run_dir), status)
        outcome = f"failed: {planned.error.splitlines()[0]}" if planned.error else _aucs(planned)
        log.info("[%d/%d] %s  %.1f s  %s", number, len(by_path), planned.label, planned.seconds, outcome)

    todo = [Job(path, p.config["trainer"]["devices"]) for path, p in by_path.items()]
    with _Watching(by_path) as watching:
        build(first.config["launcher"])(todo, sweep, watching.look, ended)


class _Printer(logging.Handler):
    """Prints: unlike a StreamHandler it finds the standard output of the moment, which rich takes over to keep its bar below."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


class _Watching:
    """On a terminal, the last line of the running job's log under the lines of the finished ones."""

    def __init__(self, by_path: Mapping[Path, Planned]) -> None:
        from rich.console import Console
        from rich.status import Status

        out = Console()
        self.by_path = by_path
        self.status = Status("starting", console=out) if out.is_terminal else None
        self.handler = _Printer()

    def __enter__(self) -> _Watching:
        log.addHandler(self.handler)
        if self.status is not None:
            self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is not None:
            self.status.stop()
        log.removeHandler(self.handler)

    def look(self, job: Job) -> None:
        if self.status is None:
            return
        try:
            last = (job.run_dir / "job.log").read_text(encoding="utf-8").splitlines()[-1].split(" ", 2)[2]
        except (OSError, IndexError):
            last = "starting"
        self.status.update(f"{self.by_path[job.run_dir].label}  {last}")


def _why(run: Run, status: int) -> str:
    """The reason of a failed job."""
    if status < 0:
        return f"killed by signal {-status}; the same command goes on from its last checkpoint"
    said = run.status().get("error")
    if said:
        return str(said)
    try:
        return (run.path / "console.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return f"exit status {status}"


def _aucs(planned: Planned) -> str:
    from seqmtl.report import number

    assert planned.run is not None
    metrics = planned.run.metrics()
    tasks = planned.config["dataset"]["tasks"]
    return "test AUC: " + ", ".join(f"{task} {number(metrics.get(f'test/auc/{task}'))}" for task in tasks)


def _sweep(plan: Plan) -> int:
    """Skip what is finished, run the rest, sum up."""
    sweep = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    todo: dict[Path, Planned] = {}
    for planned in plan.jobs:
        if planned.run is not None:
            try:
                if _claim(planned):
                    todo[planned.run.path] = planned
            except SeqmtlError as e:
                planned.error = str(e)
    refused = sum(bool(p.error) for p in plan.jobs)
    skipped = len(plan.jobs) - len(todo) - refused
    more = f"; {plan.repeated} left out, the same as one of these" if plan.repeated else ""
    print(f"{len(plan.jobs)} jobs: {skipped} finished before, {len(todo)} to run, {refused} refused{more}", flush=True)
    if todo:
        _launch(plan.jobs[0], list(todo.values()), sweep)
    return _summary(plan)


def _summary(plan: Plan) -> int:
    """A table per dataset and set of tasks: mean ± std over the seeds; then what failed and why."""
    from seqmtl.report import console, oracle_metrics, sweep_table

    out = console()
    failed = [p for p in plan.jobs if p.error or p.run is None or not p.run.metrics()]
    bad = {id(p) for p in failed}
    tables: dict[tuple[str, tuple[str, ...]], list[Planned]] = defaultdict(list)
    for planned in plan.jobs:
        if id(planned) not in bad:
            tables[planned.config["dataset"]["name"], tuple(planned.config["dataset"]["tasks"])].append(planned)
    for (dataset, tasks), jobs in tables.items():
        groups = _by_seed(jobs)
        directory, meta = open_dataset(jobs[0].config)
        title = f"{dataset}: test, mean ± std over seeds"
        out.print(sweep_table(title, tasks, groups, oracle_metrics(directory, meta, tasks)))
    for planned in failed:
        print(f"failed: {planned.label}: {planned.error or 'it has no metrics.json'}", file=sys.stderr)
        if planned.run is not None:
            print(f"    see {planned.run.path}", file=sys.stderr)
    place = Path(plan.jobs[0].config["output_dir"]).absolute()
    print(f"{len(plan.jobs) - len(failed)} of {len(plan.jobs)} jobs finished; the runs lie in {place}")
    _send_rest(plan.jobs)
    return 1 if failed else 0


def _send_rest(jobs: Sequence[Planned]) -> None:
    """Say what MLflow has not got, after one more try."""
    from seqmtl.sync import send_rest

    line = send_rest(Path(jobs[0].config["output_dir"]), [p.run.path for p in jobs if p.run is not None])
    if line:
        print(line, flush=True)


def _by_seed(jobs: list[Planned]) -> dict[str, list[Mapping[str, float | None]]]:
    """Runs that differ by their seed alone stand together; where labels do not tell two groups apart, what differs is shown."""
    groups: dict[tuple[str, str], dict[int, Planned]] = defaultdict(dict)
    for planned in jobs:
        groups[run_label(planned.config), config_hash(planned.config)][planned.config["seed"]] = planned
    named: dict[tuple[str, str], str] = {}
    for label in dict.fromkeys(label for label, _ in groups):
        alike = [key for key in groups if key[0] == label]
        told = differences([next(iter(groups[key].values())).config for key in alike]) if len(alike) > 1 else [""]
        for key, words in zip(alike, told, strict=True):
            named[key] = " ".join([label, *([words] if words else []), *([key[1]] if told.count(words) > 1 else [])])
    return {named[key]: [p.run.metrics() for p in seeds.values() if p.run] for key, seeds in groups.items()}
