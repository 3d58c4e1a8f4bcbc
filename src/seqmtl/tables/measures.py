"""Parts whose rows are no models: what a replay of an online test gives, and statistics of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.runs import config_hash
from seqmtl.tables import replay as replays
from seqmtl.tables.collect import Jobs, clusters_of, finished, first_config, one_version, run_of, run_of_row
from seqmtl.tables.content import Cell, Comparison, Part, Published, Row
from seqmtl.tables.predictions import labels, logits, oracle
from seqmtl.tables.spec import PartSpec

Measure = Callable[[PartSpec, str, Mapping[str, Any], Jobs], Part]


def measured(spec: PartSpec, dataset: str, config: Mapping[str, Any], jobs: Jobs) -> Part:
    """The numbers of a part that has a `measure`.

    Args:
        spec: of the part.
        dataset: that it was made on.
        config: of any run on it.
        jobs: the runs of its rows, by label; empty where the measure needs none.

    Raises:
        SeqmtlError: there is no such measure, or it cannot be taken of these data or runs.
    """
    if spec.measure not in MEASURES:
        raise SeqmtlError(f"part {spec.name}: there is no measure '{spec.measure}'; there are {', '.join(MEASURES)}")
    return MEASURES[spec.measure](spec, dataset, config, jobs)


def _part(spec: PartSpec, dataset: str, config: Mapping[str, Any], rows: list[Row], clusters: str) -> Part:
    directory, meta = open_dataset(config)
    return Part(
        name=spec.name,
        dataset=dataset,
        data_version=data_version(directory, meta),
        simulated=bool(config["dataset"]["prepare"].get("simulate")),
        rows=dict(meta.rows),
        positives={split: dict(of_split) for split, of_split in meta.positives.items()},
        columns=spec.columns,
        table_rows=tuple(rows),
        comparable=dataset in spec.published_on,
        remarks=spec.remarks,
        clusters=clusters,
        measure=spec.measure,
    )


def _category_in_histories(spec: PartSpec, dataset: str, config: Mapping[str, Any], jobs: Jobs) -> Part:
    """DTRN's Table 1: rows are histories, columns tasks."""
    from seqmtl.tables.occurrences import occurrences

    directory, meta = open_dataset(config)
    histories = {name: options["max_len"] for name, options in config["dataset"]["histories"].items()}
    lacking = [row.label for row in spec.rows if row.label not in histories]
    if lacking:
        raise SeqmtlError(f"dataset={dataset} has no history {', '.join(lacking)}; it has {', '.join(histories)}")
    found = occurrences(directory, meta, histories, [column.task for column in spec.columns], **spec.options)
    rows = []
    for row in spec.rows:
        printed = spec.published.get(row.label, (None,) * len(spec.columns))
        values = found[row.label]
        cells = {c.key: Cell(mean=values[c.task], published=p) for c, p in zip(spec.columns, printed, strict=True)}
        rows.append(Row(label=row.label, cells=cells))
    return _part(spec, dataset, config, rows, "")


def _replay(spec: PartSpec, dataset: str, config: Mapping[str, Any], jobs: Jobs) -> Part:
    """An online A/B test on the simulator: rows are pairs of models, columns relative gains."""
    config, version = first_config(jobs), one_version(jobs)
    directory, meta = open_dataset(config)
    tasks = config["dataset"]["tasks"]
    truth = labels(directory, meta, tasks, config["dataset"]["user"])
    predicted = {
        label: [logits(run_of(job), truth, job.config["dataset"]["tasks"]) for job in finished(seeds, version).values()]
        for label, seeds in jobs.items()
    }
    found = replays.replay_part(predicted, truth, oracle(directory, truth), spec.options, spec.columns)
    printed = replays.published(spec.options, spec.columns)
    rows = []
    for name, pair in replays.pairs(spec.options, list(jobs)).items():
        runs = tuple(run_of_row(seed, job, version) for label in pair for seed, job in jobs.get(label, {}).items())
        hashes = "-".join(config_hash(next(iter(jobs[label].values())).config) for label in pair if label in jobs)
        method = f"paired bootstrap over {'users' if truth.users is not None else 'rows'}"
        cells = {
            c.key: _gain(pair[1], found.get(name, {}).get(c.key), printed.get(name, {}).get(c.key), method) for c in spec.columns
        }
        rows.append(Row(label=name, config_hash=hashes, cells=cells, runs=runs))
    return _part(spec, dataset, config, rows, clusters_of(truth, config["dataset"]["user"]))


def _gain(other: str, found: replays.Replay | None, printed: float | None, method: str) -> Cell:
    """In percent, as they are printed."""
    published = None if printed is None else Published(100 * printed)
    if found is None or found.gain is None:
        return Cell(published=published)
    interval = None if found.interval is None else (100 * found.interval[0], 100 * found.interval[1])
    test = Comparison(other, 100 * found.gain, interval, found.p, None, method)
    return Cell(mean=100 * found.gain, published=published, rows_test=test)


MEASURES: dict[str, Measure] = {"category_in_histories": _category_in_histories, "replay": _replay}
