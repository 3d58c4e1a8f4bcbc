"""conf/table/<name>.yaml: which runs a table needs, in which order they stand, and what the paper printed.

    title: AITM, Table 2
    paper: aitm                          # key of papers.PAPERS
    where: Table 2
    about: words for the report
    seeds: [1, 2, 3, 4, 5]
    overrides: [experiment=aitm]         # of every run
    rows:                                # in the paper's order
      LightGBM: [model=lightgbm]
      AITM: {overrides: [model=aitm], ours: true}
    parts:
      public:
        datasets: [aliccp_sim, aliccp]   # that it may be made on; the first unless dataset=NAME says another
        published_on: [aliccp]           # where the published values are of the same data
        columns: [click.auc, purchase.auc]
        gain: {over: LightGBM, kind: absolute}
        published:                       # by row, in the order of the columns; - where the paper prints nothing
          LightGBM: [0.5837 ± 0.0005, 0.5870 ± 0.0038]
          AITM: [0.6043 ± 0.0016, 0.6525 ± 0.0024 **]
        remarks: [words]

A part may have `overrides` and `rows` of its own, which are added to the table's (a row that is null there is left out), and a row
`against: LABEL` where it is compared with that row and not with the best one. Where a dataset needs words of its own, as a smaller
batch on simulated data, `datasets` is a mapping: {tenrec_sim: [batch_size=256], tenrec: []}. A part whose numbers are no
metrics of runs says what they are: `measure` (measures.py), with `options`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqmtl.entries import datasets, different, files, headings, mapping, read, refuse_unknown, seeds, strings, text, truth
from seqmtl.tables.content import Column, Published

METRICS = {"auc": ("AUC", 1), "logloss": ("LogLoss", -1)}
OF_MEASURE = {  # the metrics of its columns, and its options
    "category_in_histories": ({"occurrences"}, {"field"}),
    "replay": ({"gain", "gain_seen"}, {"pairs", "published", "share", "repeats", "seed"}),
}
PRINTED = re.compile(r"(-?\d*\.?\d+)%?(?:\s*±\s*(\d*\.?\d+))?\s*(\*{0,2})")


@dataclass(frozen=True)
class RowSpec:
    """A row: what makes its run, and what it is compared with."""

    label: str
    overrides: tuple[str, ...] = ()
    ours: bool = False
    against: str = ""


@dataclass(frozen=True)
class PartSpec:
    """The rows on one dataset.

    Args:
        overrides: of every run of the part, the table's first; `on` adds those of one dataset.
        of_dataset: {dataset: overrides of the runs on it}.
        columns: empty where all tasks of the dataset are shown, AUC and LogLoss.
        measure: what is measured (measures.py); empty: the metrics of the runs.
        options: of the measure.
    """

    name: str
    datasets: tuple[str, ...]
    published_on: tuple[str, ...]
    overrides: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[RowSpec, ...]
    gain_over: str = ""
    gain_kind: str = ""
    published: Mapping[str, tuple[Published | None, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    measure: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    of_dataset: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def on(self, dataset: str) -> tuple[str, ...]:
        """The words of every run of the part on that dataset, less those of the row: the last one that sets a key wins."""
        return (*self.overrides, f"dataset={dataset}", *self.of_dataset.get(dataset, ()))


@dataclass(frozen=True)
class TableSpec:
    """A table's YAML, checked."""

    name: str
    title: str
    paper: str
    where: str
    about: str
    seeds: tuple[int, ...]
    parts: tuple[PartSpec, ...]


def needs_runs(part: PartSpec) -> bool:
    """Whether the part's rows are trained; else they are of the data."""
    return part.measure != "category_in_histories"


def table_names(folders: Sequence[Path]) -> dict[str, Path]:
    """{name: its YAML} in the conf folders."""
    return files("table", folders)


def read_table(name: str, folders: Sequence[Path]) -> TableSpec:
    """The table of that name.

    Raises:
        SeqmtlError: there is none, or its YAML is wrong; says where.
    """
    return read("table", name, folders, _table)


def _table(name: str, content: Mapping[str, Any]) -> TableSpec:
    refuse_unknown(name, content, {"title", "paper", "where", "about", "seeds", "overrides", "rows", "parts"})
    rows, overrides = mapping(content.get("rows"), "rows"), strings(content.get("overrides"), "overrides")
    parts = tuple(_part(part, rows, overrides, given) for part, given in mapping(content["parts"], "parts").items())
    if not parts:
        raise ValueError("it has no parts")
    return TableSpec(
        name=name,
        **headings(content),
        seeds=seeds(content.get("seeds"), (1, 2, 3, 4, 5)),
        parts=parts,
    )


def _part(name: str, rows: Mapping[str, Any], overrides: Sequence[str], given: Mapping[str, Any]) -> PartSpec:
    known = {"datasets", "published_on", "overrides", "columns", "rows", "gain", "published", "remarks", "measure", "options"}
    refuse_unknown(f"part {name}", given, known)
    of_dataset = datasets(given["datasets"])
    own = mapping(given.get("rows"), f"part {name}: rows")
    made = tuple(_row(label, row) for label, row in {**rows, **own}.items() if row is not None)
    if not made:
        raise ValueError(f"part {name} has no rows")
    gain = mapping(given.get("gain"), f"part {name}: gain")
    if gain:
        refuse_unknown(f"part {name}: gain", gain, {"over", "kind"})
    part = PartSpec(
        name=name,
        datasets=tuple(of_dataset),
        published_on=different(given.get("published_on"), f"part {name}: published_on"),
        overrides=(*overrides, *strings(given.get("overrides"), f"part {name}: overrides")),
        columns=_columns(name, given.get("columns")),
        rows=made,
        gain_over=gain["over"] if gain else "",
        gain_kind=gain["kind"] if gain else "",
        published=_published(name, given.get("published")),
        remarks=tuple(" ".join(remark.split()) for remark in strings(given.get("remarks"), f"part {name}: remarks")),
        measure=text(given.get("measure"), f"part {name}: measure"),
        options=mapping(given.get("options"), f"part {name}: options"),
        of_dataset=of_dataset,
    )
    _refuse_what_does_not_fit(part)
    _check_measure(part)
    return part


def _refuse_what_does_not_fit(part: PartSpec) -> None:
    """What a part says of its rows, columns and datasets must be of its own."""
    named = {part.gain_over, *(row.against for row in part.rows), *part.published} - {""}
    if wrong := named - {row.label for row in part.rows}:
        raise ValueError(f"part {part.name} names rows that it does not have: {', '.join(sorted(wrong))}")
    if elsewhere := sorted(set(part.published_on) - set(part.datasets)):
        raise ValueError(f"part {part.name} is published on {', '.join(elsewhere)}, which is none of its datasets")
    if part.gain_kind not in ("", "absolute", "relative"):
        raise ValueError(f"part {part.name}: gain.kind must be absolute or relative, not {part.gain_kind}")
    for label, values in part.published.items():
        if len(values) != len(part.columns):
            raise ValueError(f"part {part.name}: row {label} has {len(values)} published values for {len(part.columns)} columns")


def _check_measure(part: PartSpec) -> None:
    """That there is the measure, and that columns and options are its own: before anything is trained for it."""
    if part.measure and part.measure not in OF_MEASURE:
        raise ValueError(f"part {part.name}: there is no measure '{part.measure}'; there are {', '.join(OF_MEASURE)}")
    metrics, options = OF_MEASURE[part.measure] if part.measure else (set(METRICS), set[str]())
    what = f"measure: {part.measure}" if part.measure else "a part without a measure"
    if wrong := [column.key for column in part.columns if column.metric not in metrics]:
        raise ValueError(f"part {part.name}: {', '.join(wrong)} is no column of {what}: TASK.{' or TASK.'.join(sorted(metrics))}")
    if part.options and not part.measure:
        raise ValueError(f"part {part.name} has options, which only a measure has")
    refuse_unknown(f"part {part.name}: options", part.options, options)
    if not part.measure:
        return
    if not part.columns:
        raise ValueError(f"part {part.name}: {what} needs columns")
    if part.gain_over:
        raise ValueError(f"part {part.name}: {what} has no gain over a row")
    if part.measure == "replay":
        _check_replay(part)
    elif not isinstance(part.options.get("field", ""), str):
        raise ValueError(f"part {part.name}: options.field must be a field, not {part.options['field']!r}")


def _check_replay(part: PartSpec) -> None:
    from seqmtl.tables import replay  # what it reads predictions with takes its time to import

    if part.published:
        raise ValueError(f"part {part.name}: a replay's published values are of its pairs: options.published")
    replay.pairs(part.options, [row.label for row in part.rows])
    mapping(part.options.get("published"), f"part {part.name}: options.published")
    replay.published(part.options, part.columns)
    share = part.options.get("share", 0.1)
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(f"part {part.name}: options.share must be a share of the rows, between 0 and 1, not {share!r}")
    for key, least in (("repeats", 1), ("seed", 0)):
        value = part.options.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"part {part.name}: options.{key} must be a whole number of at least {least}, not {value!r}")


def _row(label: str, given: Any) -> RowSpec:
    if not isinstance(given, Mapping):
        return RowSpec(label, strings(given, f"row {label}"))
    refuse_unknown(f"row {label}", given, {"overrides", "ours", "against"})
    ours = truth(given.get("ours"), f"row {label}: ours")
    return RowSpec(label, strings(given.get("overrides"), f"row {label}: overrides"), ours, text(given.get("against"), "against"))


def _published(name: str, given: Any) -> dict[str, tuple[Published | None, ...]]:
    found = {}
    for label, values in mapping(given, f"part {name}: published").items():
        if not isinstance(values, list):
            raise ValueError(f"part {name}: the published values of {label} must be a list, not {values!r}")
        found[label] = tuple(printed(value) for value in values)
    return found


def _columns(name: str, given: Any) -> tuple[Column, ...]:
    columns = tuple(_column(one) for one in strings(given, f"part {name}: columns"))
    different([column.key for column in columns], f"part {name}: columns")
    return columns


def _column(text: str) -> Column:
    """`click.auc`, or `click.auc: title`."""
    key, _, title = text.partition(":")
    task, _, metric = key.strip().rpartition(".")
    word, better = METRICS.get(metric, (metric, 0))
    if not task:
        raise ValueError(f"a column must be TASK.METRIC, not {text!r}")
    return Column(key.strip(), task, metric, title.strip() or f"{task} {word}".strip(), better)


def columns_of(tasks: Sequence[str]) -> tuple[Column, ...]:
    """AUC and LogLoss of each task."""
    return tuple(_column(f"{task}.{metric}") for task in tasks for metric in METRICS)


def printed(value: Any) -> Published | None:
    """`0.6525 ± 0.0024 **` → Published; `-` is nothing.

    Raises:
        ValueError: it is no printed value.
    """
    text = str(value).strip()
    if text in ("-", "–"):
        return None
    found = PRINTED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no published value: 0.6525 ± 0.0024 **, or -")
    return Published(float(found[1]), None if found[2] is None else float(found[2]), found[3])
