"""A list of jobs through a launcher: what is finished is skipped, the rest is run, and at the end a table and what failed.

Unusual: several sweeps may have the same job in their lists. Whoever starts it first runs it; the others look at it again when they
are through with theirs, and take it over where its process is gone.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from seqmtl.board import Board
from seqmtl.build import build_launcher
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.launch.command import job_of
from seqmtl.lock import Held
from seqmtl.plan import Plan, Planned
from seqmtl.plural import plural
from seqmtl.runs import config_hash, run_label, told_apart

WAIT_SECONDS = 2.0


def claim(planned: Planned) -> bool:
    """Make the run directory ready for this config; False where the run is finished on these data.

    Raises:
        Held: another process is running it.
    """
    run = planned.run
    assert run is not None
    directory, meta = open_dataset(planned.config)
    version = data_version(directory, meta)
    with run.lock("preparing"):
        if run.finished(version):
            return False
        run.ready(version)
        run.write_config(planned.config)
    return True


def launch(jobs: Sequence[Planned], sweep: str) -> list[Planned]:
    """Run claimed jobs through the launcher of their config, which is the same for all.

    Args:
        sweep: tag of the MLflow runs.

    Returns:
        Those that another process was running when their turn came.
    """
    by_path = {planned.run.path: planned for planned in jobs if planned.run is not None}
    todo = [job_of(planned.config, path) for path, planned in by_path.items()]
    with Board(by_path) as board:
        build_launcher(jobs[0].config["launcher"])(todo, sweep, board)
    return board.busy


def run(plan: Plan) -> int:
    """Skip what is finished, run the rest, sum up; the exit status."""
    complete(plan)
    return _summary(plan)


def complete(plan: Plan) -> None:
    """Skip what is finished, run the rest; a job that fails gets its reason."""
    sweep = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    todo, busy = _claimed([planned for planned in plan.jobs if planned.run is not None])
    refused = sum(bool(planned.error) for planned in plan.jobs)
    skipped = len(plan.jobs) - len(todo) - len(busy) - refused
    more = f", {len(busy)} that another process is running" if busy else ""
    more += f"; {plan.repeated} left out, the same as one of these" if plan.repeated else ""
    print(f"{plural(len(plan.jobs), 'job')}: {skipped} finished before, {len(todo)} to run, {refused} refused{more}", flush=True)
    while todo or busy:
        if todo:
            busy += launch(todo, sweep)
        todo, busy = _awaited(busy)


def _claimed(jobs: Sequence[Planned]) -> tuple[list[Planned], list[Planned]]:
    """The jobs to run, and those that another process is running; a job that cannot be claimed gets its reason."""
    todo, busy = [], []
    for planned in jobs:
        try:
            if planned.run is not None and planned.run.held():  # to claim it would wait a while for its holder
                busy.append(planned)
            elif claim(planned):
                todo.append(planned)
        except Held:
            busy.append(planned)
        except SeqmtlError as e:
            planned.error = str(e)
    return todo, busy


def _awaited(busy: Sequence[Planned]) -> tuple[list[Planned], list[Planned]]:
    """Wait until another process lets go of a job; those that it did not finish are to run."""
    if not busy:
        return [], []
    more = f" and {len(busy) - 1} more" if len(busy) > 1 else ""
    print(f"waiting for {busy[0].label}{more}, which another process is running", flush=True)
    while True:
        time.sleep(WAIT_SECONDS)
        todo, left = _claimed(busy)
        if len(left) < len(busy):
            return todo, left


def _summary(plan: Plan) -> int:
    """A table per dataset and set of tasks: mean ± std over the seeds; then what failed and why."""
    from seqmtl.report import console, sweep_table
    from seqmtl.tables.predictions import oracle_metrics

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
    send_rest(plan.jobs)
    return 1 if failed else 0


def send_rest(jobs: Sequence[Planned]) -> None:
    """Say what MLflow has not got, after one more try."""
    from seqmtl.sync import send_rest as send

    line = send(Path(jobs[0].config["output_dir"]), [planned.run.path for planned in jobs if planned.run is not None])
    if line:
        print(line, flush=True)


def _by_seed(jobs: list[Planned]) -> dict[str, list[Mapping[str, float | None]]]:
    """Runs that differ by their seed alone stand together; where labels do not tell two groups apart, what differs is shown."""
    groups: dict[tuple[str, str], dict[int, Planned]] = defaultdict(dict)
    for planned in jobs:
        groups[run_label(planned.config), config_hash(planned.config)][planned.config["seed"]] = planned
    names = told_apart([next(iter(seeds.values())).config for seeds in groups.values()])
    return {name: [p.run.metrics() for p in seeds.values() if p.run] for name, seeds in zip(names, groups.values(), strict=True)}
