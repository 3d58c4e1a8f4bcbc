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

import yaml

from seqmtl.errors import SeqmtlError
from seqmtl.tables.content import Column, Published

METRICS = {"auc": ("AUC", 1), "logloss": ("LogLoss", -1)}
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
    """{name: its YAML} in the conf folders; a user's own folder comes later and wins."""
    return {path.stem: path for folder in folders for path in sorted((folder / "table").glob("*.yaml"))}


def read_table(name: str, folders: Sequence[Path]) -> TableSpec:
    """The table of that name.

    Raises:
        SeqmtlError: there is none, or its YAML is wrong; says where.
    """
    found = table_names(folders)
    if name not in found:
        raise SeqmtlError(f"there is no table '{name}'; there are {', '.join(found)}")
    try:
        content = yaml.safe_load(found[name].read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise SeqmtlError(f"{found[name]} cannot be read: {e}") from e
    try:
        return _table(name, content)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise SeqmtlError(f"{found[name]} is no table: {type(e).__name__}: {e}") from e


def _table(name: str, content: Mapping[str, Any]) -> TableSpec:
    _refuse_unknown(name, content, {"title", "paper", "where", "about", "seeds", "overrides", "rows", "parts"})
    rows, overrides = content.get("rows") or {}, content.get("overrides") or []
    parts = tuple(_part(part, rows, overrides, given) for part, given in content["parts"].items())
    if not parts:
        raise ValueError("it has no parts")
    return TableSpec(
        name=name,
        title=content["title"],
        paper=content.get("paper") or "",
        where=content.get("where") or "",
        about=" ".join((content.get("about") or "").split()),
        seeds=tuple(content.get("seeds") or (1, 2, 3, 4, 5)),
        parts=parts,
    )


def _part(name: str, rows: Mapping[str, Any], overrides: Sequence[str], given: Mapping[str, Any]) -> PartSpec:
    known = {"datasets", "published_on", "overrides", "columns", "rows", "gain", "published", "remarks", "measure", "options"}
    _refuse_unknown(f"part {name}", given, known)
    made = tuple(_row(label, row) for label, row in {**rows, **(given.get("rows") or {})}.items() if row is not None)
    labels = [row.label for row in made]
    columns = tuple(_column(column) for column in given.get("columns") or ())
    datasets = given["datasets"] if isinstance(given["datasets"], Mapping) else dict.fromkeys(given["datasets"])
    gain = given.get("gain") or {}
    wrong = {gain["over"]} - set(labels) if gain else set()
    wrong |= {row.against for row in made if row.against} - set(labels)
    wrong |= set(given.get("published") or {}) - set(labels)
    if wrong:
        raise ValueError(f"part {name} names rows that it does not have: {', '.join(sorted(wrong))}")
    elsewhere = sorted(set(given.get("published_on") or ()) - set(datasets))
    if elsewhere:
        raise ValueError(f"part {name} is published on {', '.join(elsewhere)}, which is none of its datasets")
    if gain and gain["kind"] not in ("absolute", "relative"):
        raise ValueError(f"part {name}: gain.kind must be absolute or relative, not {gain['kind']}")
    published = {}
    for label, values in (given.get("published") or {}).items():
        if len(values) != len(columns):
            raise ValueError(f"part {name}: row {label} has {len(values)} published values for {len(columns)} columns")
        published[label] = tuple(printed(value) for value in values)
    return PartSpec(
        name=name,
        datasets=tuple(datasets),
        published_on=tuple(given.get("published_on") or ()),
        overrides=(*overrides, *(given.get("overrides") or ())),
        columns=columns,
        rows=made,
        gain_over=gain.get("over", ""),
        gain_kind=gain.get("kind", ""),
        published=published,
        remarks=tuple(" ".join(remark.split()) for remark in given.get("remarks") or ()),
        measure=given.get("measure") or "",
        options=given.get("options") or {},
        of_dataset={dataset: tuple(words or ()) for dataset, words in datasets.items()},
    )


def _row(label: str, given: Any) -> RowSpec:
    if not isinstance(given, Mapping):
        return RowSpec(label, tuple(given))
    _refuse_unknown(f"row {label}", given, {"overrides", "ours", "against"})
    return RowSpec(label, tuple(given.get("overrides") or ()), bool(given.get("ours")), given.get("against") or "")


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


def _refuse_unknown(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{what} has {', '.join(unknown)}, which nothing reads; it may have {', '.join(sorted(known))}")
