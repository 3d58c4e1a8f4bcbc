"""`seqmtl table NAME [dataset=…] [part=…] [seeds=…] [overrides]`: run what is missing, then write the table.

Unusual: there is no Hydra config of a table. Its YAML names words, and every row is composed as if `seqmtl` had been called with
them; so any word of a training may be said here, too, and goes to all rows: launcher=parallel, trainer.max_epochs=1, data_dir=…
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl import __version__, sweep
from seqmtl.asked import Asked, foresee, read_words, to_mlflow
from seqmtl.board import printed
from seqmtl.composing import composed, composed_plan, prepared
from seqmtl.errors import SeqmtlError
from seqmtl.plan import Plan, Planned
from seqmtl.plural import plural
from seqmtl.redact import hide
from seqmtl.runs import config_hash
from seqmtl.tables.spec import PartSpec, TableSpec, needs_runs, read_table

if TYPE_CHECKING:
    from seqmtl.tables.collect import Jobs
    from seqmtl.tables.content import Part, Table

PACKAGES = ("torch", "lightning", "lightgbm", "numpy", "scipy")


REFUSED = dict.fromkeys(("model", "experiment"), "its rows name them; write a table of your own (docs/tables.md)")


def run(words: Sequence[str], folders: Sequence[Path]) -> int:
    """The verb; the exit status is 0 when every run of the table is finished.

    Args:
        words: behind `seqmtl table`.
        folders: conf folders, seqmtl's own first.

    Raises:
        SeqmtlError: bad input, in words.
    """
    asked = read_words("table", words, own=("part",), refused=REFUSED)
    spec = read_table(asked.name, folders)
    parts = chosen_parts(spec, asked)
    seeds = asked.seeds or spec.seeds
    rows = [words_of(part, dataset, row.overrides) for part, dataset in parts for row in part.rows if needs_runs(part)]
    any_run = [words_of(part, dataset, part.rows[0].overrides) for part, dataset in parts]
    if asked.dry_run:
        labels = [f"{part.name}: {row.label}" for part, _ in parts for row in part.rows if needs_runs(part)]
        return foresee(rows, any_run, seeds, asked.words, folders, labels)
    with printed():
        import seqmtl.prepare.verb as prepare

        prepared(any_run, asked.words, folders, prepare.run)
        plan, jobs = composed_plan(rows, seeds, asked.words, folders)
        by_part = _jobs_of_parts(parts, jobs, seeds)
        if plan.jobs:
            sweep.complete(plan)
    configs, plain = (_configs(any_run, said, folders) for said in (asked.words, ()))
    made = _parts(parts, configs, plain, by_part)
    output_dir = Path(configs[0]["output_dir"]).absolute()
    folder = output_dir / "tables" / spec.name / ("" if len(parts) == len(spec.parts) else "+".join(part.name for part, _ in parts))
    return _write(_table(spec, seeds, words, made), plan, output_dir, folder)


def chosen_parts(spec: TableSpec, asked: Asked) -> list[tuple[PartSpec, str]]:
    """The parts to make, each with its dataset.

    Raises:
        SeqmtlError: there is no such part, or the dataset is of none.
    """
    name = asked.own.get("part", "")
    places = "; ".join(f"{part.name}: {', '.join(part.datasets)}" for part in spec.parts)
    parts = [part for part in spec.parts if not name or part.name == name]
    if not parts:
        raise SeqmtlError(f"table {spec.name} has no part '{name}'; it has {places}")
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


def _configs(rows: Sequence[Sequence[str]], words: Sequence[str], folders: Sequence[Path]) -> list[dict[str, Any]]:
    from omegaconf import OmegaConf

    return [OmegaConf.to_container(cfg, resolve=True) for cfg in composed(rows, words, folders)]  # type: ignore[misc]


def _jobs_of_parts(parts: Sequence[tuple[PartSpec, str]], jobs: Sequence[Planned], seeds: Sequence[int]) -> list[Jobs]:
    """The jobs of each part, by row and seed.

    Raises:
        SeqmtlError: two rows are the same run, by a word that was said for all of them.
    """
    left = iter(jobs)
    found: list[Jobs] = []
    for part, _ in parts:
        of_part = {row.label: {seed: next(left) for seed in seeds} for row in part.rows if needs_runs(part)}
        by_run: dict[Any, str] = {}
        for label, of_row in of_part.items():
            run = of_row[seeds[0]].run
            if run is not None and run in by_run:
                same = f"part {part.name}: the rows {by_run[run]} and {label} would be the same run"
                raise SeqmtlError(f"{same}; leave out the word that sets for all rows what tells them apart")
            by_run[run] = label
        found.append(of_part)
    return found


def _parts(parts: Sequence[tuple[PartSpec, str]], configs: Sequence[Any], plain: Sequence[Any], jobs: Sequence[Jobs]) -> list[Part]:
    """The numbers of all parts. `plain` are the configs without what the user said."""
    from seqmtl.tables.collect import part_of, refused_part
    from seqmtl.tables.measures import measured

    every = [job for of_part in jobs for of_row in of_part.values() for job in of_row.values()]
    if every and all(job.run is None for job in every):
        raise SeqmtlError(every[0].error)
    made = []
    for (part, dataset), config, own, of_part in zip(parts, configs, plain, jobs, strict=True):
        if of_part and all(job.run is None for of_row in of_part.values() for job in of_row.values()):
            made.append(refused_part(part, dataset, of_part))
        elif part.measure:
            made.append(measured(part, dataset, config, of_part))
        else:
            made.append(part_of(part, dataset, of_part, _same(config, own)))
    return made


def _same(config: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether nothing was said that makes other runs, or other data."""
    return config_hash(config) == config_hash(own) and config["dataset"]["prepare"] == own["dataset"]["prepare"]


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
    return f"{plural(len(os.sched_getaffinity(0)), 'core')} ({model})"


def _write(table: Table, plan: Plan, output_dir: Path, folder: Path) -> int:
    from seqmtl.tables.write import write

    files = write(table, folder)
    print((folder / "table.md").read_text(encoding="utf-8"))
    for part, row, of_row in table.incomplete:
        why = f": {of_row.why.splitlines()[0]}" if of_row.why else ""
        print(f"missing: {part.name}: {row.label}, seed {of_row.seed}: {of_row.state}{why}")
    if plan.jobs:
        sweep.send_rest(plan.jobs)
    to_mlflow("table", table.name, ",".join(part.dataset for part in table.parts), files, output_dir)
    print(f"the table lies in {folder}: {', '.join(path.name for path in files)}")
    return 1 if any(table.incomplete) else 0
