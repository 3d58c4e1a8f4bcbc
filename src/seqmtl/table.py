"""`seqmtl table NAME [dataset=…] [part=…] [seeds=…] [overrides]`: run what is missing, then write the table.

Unusual: there is no Hydra config of a table. Its YAML names words, and every row is composed as if `seqmtl` had been called with
them; so any word of a training may be said here, too, and goes to all rows: launcher=parallel, trainer.max_epochs=1, data_dir=…
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl import __version__, preview, sweep
from seqmtl.board import printed
from seqmtl.composing import composed, composed_plan, prepared, unprepared
from seqmtl.errors import SeqmtlError
from seqmtl.estimate import estimate
from seqmtl.plan import Plan, Planned
from seqmtl.redact import hide
from seqmtl.tables.spec import PartSpec, TableSpec, needs_runs, read_table

if TYPE_CHECKING:
    from seqmtl.tables.content import Part, Table

PACKAGES = ("torch", "lightning", "lightgbm", "numpy", "scipy")


@dataclass(frozen=True)
class Asked:
    """What the command line says. `words` go to every training."""

    name: str
    part: str
    dataset: str
    seeds: tuple[int, ...]
    words: tuple[str, ...]
    dry_run: bool


def run(words: Sequence[str], folders: Sequence[Path]) -> int:
    """The verb; the exit status is 0 when every run of the table is finished.

    Args:
        words: behind `seqmtl table`.
        folders: conf folders, seqmtl's own first.

    Raises:
        SeqmtlError: bad input, in words.
    """
    asked = parse(words)
    spec = read_table(asked.name, folders)
    parts = chosen_parts(spec, asked)
    seeds = asked.seeds or spec.seeds
    rows = [words_of(part, dataset, row.overrides) for part, dataset in parts for row in part.rows if needs_runs(part)]
    any_run = [words_of(part, dataset, ()) for part, dataset in parts]
    if asked.dry_run:
        return _foresee(rows, any_run, asked, seeds, folders)
    from omegaconf import OmegaConf

    with printed():
        import seqmtl.prepare.verb as prepare

        prepared(any_run, asked.words, folders, prepare.run)
        plan, jobs = composed_plan(rows, seeds, asked.words, folders)
        if plan.jobs:
            sweep.complete(plan)
    configs: list[Any] = [OmegaConf.to_container(cfg, resolve=True) for cfg in composed(any_run, asked.words, folders)]
    table = _table(spec, seeds, words, _parts(parts, configs, jobs, seeds))
    return _write(table, plan, Path(configs[0]["output_dir"]).absolute())


def parse(words: Sequence[str]) -> Asked:
    """The words of the command line.

    Raises:
        SeqmtlError: no name, or a word that a table cannot take.
    """
    flags = [word for word in words if word.startswith("-") and "=" not in word]
    plain = [word for word in words if word not in flags]
    if wrong := [flag for flag in flags if flag != "--dry-run"]:
        raise SeqmtlError(f"a table takes no {wrong[0]}; it runs its seeds by itself (seqmtl table --help)")
    if not plain or "=" in plain[0]:
        raise SeqmtlError("which table? seqmtl table NAME; seqmtl table --help names them")
    own = {"part": "", "dataset": "", "seeds": "", "dry_run": "false"}
    left = []
    for word in plain[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise SeqmtlError(f"'{word}' is neither the table's name nor key=value; one table at a time")
        if key in ("seed", "model", "experiment"):
            hint = "seeds=1,2,3" if key == "seed" else "its rows name them; write a table of your own (docs/tables.md)"
            raise SeqmtlError(f"a table takes no {key}=: {hint}")
        if key in own:
            own[key] = value
        else:
            left.append(word)
    if own["dry_run"] not in ("true", "false"):
        raise SeqmtlError(f"dry_run must be true or false, not {own['dry_run']!r}")
    dry_run = bool(flags) or own["dry_run"] == "true"
    return Asked(plain[0], own["part"], own["dataset"], _seeds(own["seeds"]), tuple(left), dry_run)


def _seeds(text: str) -> tuple[int, ...]:
    found = [seed.strip() for seed in text.strip("[]").split(",") if seed.strip()]
    if not all(seed.isdecimal() for seed in found):
        raise SeqmtlError(f"seeds must be whole numbers of at least 0: seeds=1,2,3, not seeds={text}")
    return tuple(dict.fromkeys(int(seed) for seed in found))


def chosen_parts(spec: TableSpec, asked: Asked) -> list[tuple[PartSpec, str]]:
    """The parts to make, each with its dataset.

    Raises:
        SeqmtlError: there is no such part, or the dataset is of none.
    """
    places = "; ".join(f"{part.name}: {', '.join(part.datasets)}" for part in spec.parts)
    parts = [part for part in spec.parts if not asked.part or part.name == asked.part]
    if not parts:
        raise SeqmtlError(f"table {spec.name} has no part '{asked.part}'; it has {places}")
    if not asked.dataset:
        return [(part, part.datasets[0]) for part in parts]
    fitting = [part for part in parts if asked.dataset in part.datasets]
    if fitting or len(parts) == 1:
        return [(part, asked.dataset) for part in fitting or parts]
    raise SeqmtlError(
        f"no part of table {spec.name} is made for dataset={asked.dataset} ({places}); part=NAME makes that one on it all the same"
    )


def words_of(part: PartSpec, dataset: str, overrides: Iterable[str]) -> list[str]:
    """What stands behind `seqmtl` for a row."""
    return [*part.on(dataset), *overrides]


def _foresee(
    rows: Sequence[list[str]], any_run: Sequence[list[str]], asked: Asked, seeds: Sequence[int], folders: Sequence[Path]
) -> int:
    """What the command would do; the exit status is 1 if a job would be refused."""
    first = {str(cfg.dataset.name) for cfg in unprepared(any_run, asked.words, folders)}
    plan, _ = composed_plan(rows, seeds, asked.words, folders)
    for name in sorted(first):
        print(f"dataset {name} would be prepared first")
    later = [job for job in plan.jobs if job.config["dataset"]["name"] in first]
    for job in later:
        print(f"{job.label} on {job.config['dataset']['name']}: new: start, when the data are there")
    now = replace(plan, jobs=[job for job in plan.jobs if job not in later])
    status = preview.show(now) if now.jobs else 0
    todo = [*later, *(job for job in now.jobs if job.run is not None and not preview.finished(job))]
    if todo:
        print(f"{len(todo)} to run: {estimate(todo, Path(todo[0].config['output_dir']))}")
    return status


def _parts(
    parts: Sequence[tuple[PartSpec, str]], configs: Sequence[Any], jobs: Sequence[Planned], seeds: Sequence[int]
) -> list[Part]:
    from seqmtl.tables.collect import part_of
    from seqmtl.tables.measures import measured

    made, left = [], iter(jobs)
    for (part, dataset), config in zip(parts, configs, strict=True):
        of_part = {row.label: {seed: next(left) for seed in seeds} for row in part.rows if needs_runs(part)}
        made.append(measured(part, dataset, config, of_part) if part.measure else part_of(part, dataset, of_part))
    return made


def _table(spec: TableSpec, seeds: Sequence[int], words: Sequence[str], parts: Sequence[Part]) -> Table:
    from seqmtl.tables.content import Table
    from seqmtl.tracking import git_commit

    return Table(
        name=spec.name,
        title=spec.title,
        paper=spec.paper,
        where=spec.where,
        about=spec.about,
        seeds=tuple(seeds),
        command=hide(shlex.join(["seqmtl", "table", *words])),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"seqmtl": __version__, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        git_commit=git_commit(),
        machine=_machine(),
        parts=tuple(parts),
    )


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    except OSError:
        model = platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores ({model})"


def _write(table: Table, plan: Plan, output_dir: Path) -> int:
    from seqmtl.tables.write import write

    folder = output_dir / "tables" / table.name
    files = write(table, folder)
    print((folder / "table.md").read_text(encoding="utf-8"))
    for part, row, of_row in table.incomplete:
        why = f": {of_row.why.splitlines()[0]}" if of_row.why else ""
        print(f"missing: {part.name}: {row.label}, seed {of_row.seed}: {of_row.state}{why}")
    if plan.jobs:
        sweep.send_rest(plan.jobs)
    _to_mlflow(table, output_dir, files)
    print(f"the table lies in {folder}: {', '.join(path.name for path in files)}")
    return 1 if any(table.incomplete) else 0


def _to_mlflow(table: Table, output_dir: Path, files: Sequence[Path]) -> None:
    """A table is made again from its runs in a moment: where MLflow is away nothing has to be kept for later."""
    from seqmtl.mlflow_store import Store

    tags = {"table": table.name, "dataset": ",".join(part.dataset for part in table.parts), "git_commit": table.git_commit}
    try:
        numbers = next(path for path in files if path.suffix == ".csv").read_bytes()  # all others tell the time, too
        Store(output_dir).put_files("tables", table.name, tags, numbers, files)
    except SeqmtlError as e:
        print(f"the table is not in MLflow: {e}; the same command tries again")
