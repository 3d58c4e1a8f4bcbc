"""From the runs of a part to its numbers.

Unusual: nothing is looked up by name. The runs are those that the table's own jobs name, so that runs of another config, or on
other data, cannot get into it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.journal import Journal
from seqmtl.plan import Planned
from seqmtl.runs import Run, config_hash, counted
from seqmtl.statistics.mean import mean_and_std
from seqmtl.tables.content import Cell, Column, Comparison, Part, Row, RunOfRow
from seqmtl.tables.evidence import Evidence, Scores, over_seeds
from seqmtl.tables.pairs import asked, compared
from seqmtl.tables.predictions import Truth, labels, logits, oracle_metrics, reliability
from seqmtl.tables.spec import PartSpec, RowSpec, columns_of

Jobs = Mapping[str, Mapping[int, Planned]]  # label → seed → job


def part_of(spec: PartSpec, dataset: str, jobs: Jobs, as_published: bool = True) -> Part:
    """The numbers of a part.

    Args:
        spec: of the part.
        dataset: that it was made on.
        jobs: what was run, or could not be.
        as_published: nothing was said that makes other runs or data of it than the table's own.

    Raises:
        SeqmtlError: no job of the part can run, or its runs are of different data.
    """
    config, version = first_config(jobs), one_version(jobs)
    directory, meta = open_dataset(config)
    columns = [c for c in spec.columns or columns_of(config["dataset"]["tasks"]) if c.task in meta.parents]
    if not columns:
        wanted = ", ".join(dict.fromkeys(column.task for column in spec.columns))
        raise SeqmtlError(f"dataset={dataset} has none of the tasks {wanted}; it has {', '.join(meta.parents)}")
    tasks = list(dict.fromkeys(column.task for column in columns))
    truth = labels(directory, meta, tasks, config["dataset"]["user"])
    rows = [_row(row, spec, jobs[row.label], version, columns, truth) for row in spec.rows]
    rows = _compared(_placed(_with_gains(rows, spec), columns), spec, columns, _evidence(jobs, version, truth))
    oracle = oracle_metrics(directory, meta, tasks) or {}
    return Part(
        name=spec.name,
        dataset=dataset,
        data_version=version,
        simulated=bool(config["dataset"]["prepare"].get("simulate")),
        rows=dict(meta.rows),
        positives={split: dict(of_split) for split, of_split in meta.positives.items()},
        columns=tuple(columns),
        table_rows=tuple(rows),
        gain_over=spec.gain_over,
        gain_kind=spec.gain_kind,
        oracle={c.key: oracle[_metric(c)] for c in columns if _metric(c) in oracle},
        comparable=as_published and dataset in spec.published_on,
        remarks=spec.remarks,
        clusters=clusters_of(truth, config["dataset"]["user"]),
    )


def refused_part(spec: PartSpec, dataset: str, jobs: Jobs) -> Part:
    """A part of which no job can run: rows that say why."""
    rows = [
        Row(row.label, row.ours, row.overrides, runs=tuple(run_of_row(seed, job, "") for seed, job in jobs[row.label].items()))
        for row in spec.rows
    ]
    return Part(spec.name, dataset, "", False, {}, {}, spec.columns, tuple(rows), remarks=spec.remarks)


def first_config(jobs: Jobs) -> dict[str, Any]:
    """Of a job that can run.

    Raises:
        SeqmtlError: none can; the reason of the first.
    """
    planned = [job for seeds in jobs.values() for job in seeds.values()]
    able = next((job for job in planned if job.run is not None), None)
    if able is None:
        raise SeqmtlError(planned[0].error)
    return able.config


def one_version(jobs: Jobs) -> str:
    """The version of the data that all jobs have in common.

    Raises:
        SeqmtlError: they are of different data.
    """
    versions = defaultdict(list)
    for job in (job for seeds in jobs.values() for job in seeds.values() if job.run is not None):
        versions[data_version(*open_dataset(job.config))].append(job.label)
    if len(versions) > 1:
        raise SeqmtlError(
            f"the rows of a table must be of the same data, but {' and '.join(one[0] for one in versions.values())} differ"
        )
    return next(iter(versions))


def run_of(job: Planned) -> Run:
    """Of a job that can run."""
    assert job.run is not None
    return job.run


def clusters_of(truth: Truth, field: str | None) -> str:
    """What the tests on rows take as independent, in words."""
    if truth.users is None:
        return f"{len(truth.rows):,} rows"
    import numpy as np

    return f"{len(np.unique(truth.users)):,} users (field {field})"


def _metric(column: Column) -> str:
    return f"test/{column.metric}/{column.task}"


def finished(jobs: Mapping[int, Planned], version: str) -> dict[int, Planned]:
    """Those with results on these data."""
    return {seed: job for seed, job in jobs.items() if job.run is not None and job.run.finished(version)}


# --- A row ---


def _row(row: RowSpec, spec: PartSpec, jobs: Mapping[int, Planned], version: str, columns: Sequence[Column], truth: Truth) -> Row:
    config = next(iter(jobs.values())).config
    done = finished(jobs, version)
    metrics = {seed: run_of(job).metrics() for seed, job in done.items()}
    published = spec.published.get(row.label, (None,) * len(columns))
    printed = dict(zip((column.key for column in spec.columns), published, strict=False))
    cells = {}
    for column in columns:
        if column.task in config["dataset"]["tasks"]:
            values = {seed: of_seed.get(_metric(column)) for seed, of_seed in metrics.items()}
            mean, std = mean_and_std([*values.values()])
            cells[column.key] = Cell(values, mean, std, published=printed.get(column.key))
    return Row(
        label=row.label,
        ours=row.ours,
        overrides=row.overrides,
        model=config["model"]["name"],
        loss=config["loss"]["name"],
        config_hash=config_hash(config),
        config=counted(config),
        cells=cells,
        runs=tuple(run_of_row(seed, job, version) for seed, job in jobs.items()),
        efficiency=_efficiency(metrics, [run_of(job) for job in done.values()], truth),
        reliability=_reliability(done, truth),
        training=_training(done),
    )


def run_of_row(seed: int, job: Planned, version: str) -> RunOfRow:
    """How a run stands now."""
    if job.run is None:
        return RunOfRow(seed, "", "refused", job.error)
    state, status = job.run.state(version), job.run.status()
    why = "" if state == "finished" else job.error or str(status.get("error") or status.get("reason") or "")
    return RunOfRow(seed, str(job.run.path), state, why, _mlflow_run_id(job.run))


def _mlflow_run_id(run: Run) -> str:
    try:
        return (run.path / "mlflow_run_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _efficiency(metrics: Mapping[int, Mapping[str, float | None]], runs: Sequence[Run], truth: Truth) -> dict[str, float]:
    """Means over the runs of what is known of all of them."""
    of_runs = []
    for run, of_seed in zip(runs, metrics.values(), strict=True):
        sizes = {name: of_seed.get(name) for name in ("params", "params_mb")}
        known = {k: v for k, v in {**sizes, **(run.status().get("times") or {})}.items() if isinstance(v, int | float)}
        if known.get("test_seconds"):
            known["test_rows_per_second"] = len(truth) / known["test_seconds"]
        of_runs.append(known)
    names = [name for name in (of_runs[0] if of_runs else {}) if all(name in one for one in of_runs)]
    return {name: statistics.fmean(one[name] for one in of_runs) for name in names}


def _reliability(done: Mapping[int, Planned], truth: Truth) -> dict[str, list[list[float]]]:
    """Of the first seed: a mean over seeds would smooth away what each of them gets wrong."""
    first = next(iter(done.values()), None)
    if first is None:
        return {}
    tasks = [task for task in truth.tasks if task in first.config["dataset"]["tasks"]]
    return {task: reliability(_scores(first, truth, task), truth.of(task).y[:, 0]) for task in tasks}


def _scores(job: Planned, truth: Truth, task: str) -> Scores:
    return logits(run_of(job), truth.of(task), job.config["dataset"]["tasks"])[:, 0]


def _training(done: Mapping[int, Planned]) -> dict[str, dict[int, list[list[float]]]]:
    """The curves that the run's journal has."""
    curves: dict[str, dict[int, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for seed, job in done.items():
        for entry, _ in Journal(run_of(job).path).read():
            name = entry.get("metric", "")
            if name == "train/loss" or name.startswith("val/auc/"):
                curves[name][seed].append([entry["step"], entry["value"]])
    return {name: dict(seeds) for name, seeds in curves.items()}


# --- Rows beside each other ---


def _with_gains(rows: Sequence[Row], spec: PartSpec) -> list[Row]:
    if not spec.gain_over:
        return list(rows)
    base = next(row for row in rows if row.label == spec.gain_over)

    def gain(key: str, cell: Cell) -> float | None:
        under = base.cells.get(key)
        ours, theirs = _on_common_seeds(cell, under) if under is not None else (None, None)
        if ours is None or theirs is None:
            return None
        return ours - theirs if spec.gain_kind == "absolute" else ours / theirs - 1

    return [
        row if row is base else _with_cells(row, {key: replace(cell, gain=gain(key, cell)) for key, cell in row.cells.items()})
        for row in rows
    ]


def _on_common_seeds(cell: Cell, other: Cell) -> tuple[float | None, float | None]:
    common = [seed for seed in cell.values if seed in other.values]
    (ours, _), (theirs, _) = (mean_and_std([one.values[seed] for seed in common]) for one in (cell, other))
    return ours, theirs


def _with_cells(row: Row, cells: Mapping[str, Cell]) -> Row:
    return replace(row, cells={**row.cells, **cells})


def _order(rows: Sequence[Row], column: Column) -> list[Row]:
    """Those with a mean, the best first. One that lacks seeds is neither best nor compared, unless all do."""
    means = [(row, cell.mean) for row in rows if (cell := row.cells.get(column.key)) is not None and cell.mean is not None]
    whole = [(row, mean) for row, mean in means if not row.missing]
    return [row for row, mean in sorted(whole or means, key=lambda pair: -pair[1] * column.better)]


def _placed(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    places: dict[str, dict[str, int]] = {}
    for column in columns:
        order = _order(rows, column)
        if column.better and len(order) > 1:
            places[column.key] = {row.label: place for place, row in enumerate(order[:2], 1)}
    return [
        _with_cells(row, {k: replace(cell, place=places.get(k, {}).get(row.label)) for k, cell in row.cells.items()})
        for row in rows
    ]


def _evidence(jobs: Jobs, version: str, truth: Truth) -> Evidence:
    @lru_cache(maxsize=2)  # the row that others are compared with, and the one that is
    def scores(label: str, column: Column) -> dict[int, Scores]:
        done = finished(jobs[label], version).items()
        return {seed: _scores(job, truth, column.task) for seed, job in done if column.task in job.config["dataset"]["tasks"]}

    return Evidence(scores, lambda column: truth.of(column.task).y[:, 0], truth.users)


def _compared(rows: Sequence[Row], spec: PartSpec, columns: Sequence[Column], evidence: Evidence) -> list[Row]:
    made = {row.label: row for row in rows}
    for column in columns:
        cells = {label: row.cells[column.key] for label, row in made.items() if column.key in row.cells}
        found = asked(spec.rows, [row.label for row in _order(rows, column)])
        over = compared(found.over, found.over_family, partial(_over_seeds, cells))
        on = compared(found.on, found.on_family, partial(evidence.on_rows, column))
        for label, cell in cells.items():
            tested = replace(cell, seeds_test=over.get(label), rows_test=on.get(label))
            made[label] = _with_cells(made[label], {column.key: tested})
    return list(made.values())


def _over_seeds(cells: Mapping[str, Cell], label: str, other: str) -> Comparison:
    return over_seeds(cells[label], cells[other], other)
