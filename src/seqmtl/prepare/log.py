"""The log of any funnel → shards, with causal histories: one row per impression, in the order of time (`log_files` has the layout).

Which columns are fields, which are tasks and what hangs on what is said in the dataset's YAML, so that a new log needs no code.

Unusual: columns are read as whole numbers or strings, whatever the files hold; a column of which all values are whole numbers, of
up to 18 digits, is numbered in their order also where the file has them as text, so that CSV and Parquet give the same ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqmtl.data.meta import OUTCOMES
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.log_files import Log, Part
from seqmtl.prepare.log_labels import StepOrder
from seqmtl.prepare.log_passes import Passes, Plan, Rows
from seqmtl.prepare.log_split import Split
from seqmtl.prepare.log_values import CodedVocabulary, Codes
from seqmtl.prepare.past import Negatives
from seqmtl.prepare.raw import BadLines, Report
from seqmtl.prepare.truth import Truth
from seqmtl.prepare.vocabulary import MISSING, Counts
from seqmtl.prepare.writer import DatasetWriter
from seqmtl.types import Field, Schema, Task

SPLITS = ("time", "user_tail", "random", "user_holdout")


def prepare(
    raw_dir: Path,
    directory: Path,
    *,
    options: dict[str, Any] | None = None,
    report: Report = lambda what, rows, share: None,
    fields: Sequence[str] = (),
    parents: Mapping[str, str | None] | None = None,
    user: str | None = None,
    item: str | None = None,
    histories: Mapping[str, str] | None = None,
    negative: str | Mapping[str, Any] = "all",
    split: str = "time",
    valid_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
    shuffle_seed: int = 0,
    min_count: int = 2,
    on_order_violation: str = "error",
    on_bad_line: str = "error",
    rows_per_shard: int = 1_000_000,
) -> None:
    """Converts the log in `raw_dir` into a dataset in `directory`.

    Args:
        fields: columns that models read: whole numbers or strings; null and empty are 0.
        parents: the tasks, each the name of a column of 0 and 1, with the task that must happen first, or null.
        user: column of the user, for histories and for splits by user. Rows without one have no history.
        item: the field that histories are made of.
        histories: {name: `task=1` or `task=0`}: the items of the user's earlier rows with this label.
        negative: of histories of `task=0`: `all`, `{keep_prob: p}` stores each with probability p, `{window: n}` only those among
            the user's last n rows.
        split: `time`, `user_tail`, `random` or `user_holdout` (`log_split.Split`).
        min_count: values seen less often in the training rows become 0.
        on_order_violation: a step without its parent: `error`, `fix` lowers it to 0, `drop` the row, `keep`.
        on_bad_line: `error`, or `skip` and count.

    Raises:
        SeqmtlError: a file is missing or bad; an option makes no sense; a split has no rows; the disk refuses.
    """
    if split not in SPLITS:
        raise SeqmtlError(f"dataset.prepare.split must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, not {split!r}")
    _refuse_shapes(fields, parents, histories)
    parents = dict(parents or {})
    behaviours = _behaviours(histories or {}, parents)
    rule = Split(split, valid_share, test_share, split_seed)
    plan = Plan(tuple(fields), tuple(parents), behaviours, item, user is not None, Negatives.of(negative), rule, min_count,
                shuffle_seed)  # fmt: skip
    _check(plan, parents)
    bad, steps = BadLines(on_bad_line), StepOrder(parents, on_order_violation)
    writer = DatasetWriter(directory, fields, parents, options, rows_per_shard, dict.fromkeys(behaviours, item or ""))
    log, sources = Log(raw_dir), dict[str, dict[str, Any]]()
    oracle = raw_dir / "oracle_log.parquet"
    truth = Truth(oracle, plan.tasks) if oracle.is_file() else None
    columns = _Columns(plan, user, steps, truth)

    passes = Passes(directory / ".spill", plan, log.expected, truth is not None)
    parts = log.parts(columns.names, plan.tasks, bad, sources)
    sizes = passes.run(map(columns.rows, parts), columns.numberings, writer, report)
    if truth is not None:
        truth.finish()
    statistics = passes.positions.statistics() if user is not None else {}
    if steps.kept:
        statistics["order_violations"] = dict(steps.kept)
    writer.finish(sizes, sources, {**bad.counts, **steps.dropped}, steps.fixed, statistics)


def _refuse_shapes(fields: Any, parents: Any, histories: Any) -> None:
    """Refuses lists where names must be told, and a name where a list must stand."""
    if not isinstance(fields, Sequence) or isinstance(fields, str):
        raise SeqmtlError(f"dataset.prepare.fields must be a list of columns, not {fields!r}")
    for key, value, example in (("parents", parents, "{click: null, order: click}"), ("histories", histories, "{click: click=1}")):
        if not isinstance(value or {}, Mapping):
            raise SeqmtlError(f"dataset.prepare.{key} must be a mapping such as {example}, not {value!r}")
    bad = [name for name in histories or {} if not re.fullmatch(r"[\w.-]+", str(name))]
    if bad:
        raise SeqmtlError(f"dataset.prepare.histories.{bad[0]}: a history is a file of that name; use letters, digits, _ and -")


def _behaviours(histories: Mapping[str, str], tasks: Mapping[str, str | None]) -> dict[str, tuple[str, int]]:
    made = {}
    for name, rule in histories.items():
        found = re.fullmatch(r"(.+)=([01])", str(rule))
        if found is None or found[1] not in tasks:
            raise SeqmtlError(
                f"dataset.prepare.histories.{name} must be <task>=1 or <task>=0, not {rule!r}; the tasks are {', '.join(tasks)}"
            )
        made[name] = (found[1], int(found[2]))
    return made


def _check(plan: Plan, parents: Mapping[str, str | None]) -> None:
    """Refuses options that do not fit together."""
    if not plan.fields or not plan.tasks:
        raise SeqmtlError("dataset.prepare.fields and dataset.prepare.parents must name the columns of fields and tasks")
    Schema(tuple(Field(name, 1) for name in plan.fields), tuple(Task(name, parent) for name, parent in parents.items()))
    if plan.histories and (plan.item is None or not plan.users):
        raise SeqmtlError(
            "dataset.prepare.histories needs dataset.prepare.user and dataset.prepare.item, the columns they are made of"
        )
    if plan.split.of_users and not plan.users:
        raise SeqmtlError(f"dataset.prepare.split={plan.split.kind} needs dataset.prepare.user, the column of the user")
    if plan.item in OUTCOMES:
        raise SeqmtlError(f"{plan.item} happens after the impression: it must not be the item")
    written = {f"{name}_{what}" for name in plan.histories for what in ("end", "len")}
    taken = sorted(name for name in (*plan.fields, *plan.tasks) if name in written or name.startswith("_"))
    if taken:
        raise SeqmtlError(f"the dataset has columns of its own named {', '.join(taken)}; rename that column of the log")


class _Columns:
    """Turns the rows of the files into those of the passes."""

    def __init__(self, plan: Plan, user: str | None, steps: StepOrder, truth: Truth | None) -> None:
        self.plan, self.user, self.steps, self.truth = plan, user, steps, truth
        self.names = [*dict.fromkeys([*plan.fields, *([user] if user is not None else [])])]
        self.codes = {name: Codes() for name in self.names}

    def rows(self, part: Part) -> Rows:
        row = part.first + part.at
        labels = {task: part.frame[task].to_numpy() for task in self.plan.tasks}
        truth = {} if self.truth is None else self.truth.next(part.rows, part.at)
        stay = self.steps.check(labels, row)
        codes = {name: of_column(part.frame[name])[stay] for name, of_column in self.codes.items()}
        row = row[stay]
        user = None
        if self.user is not None:
            user = codes[self.user].astype(np.int64)
            user = np.where(user == MISSING, -1 - row, user)  # nobody is a user of its own in each row
        return Rows(
            part.rows, row, user,
            {name: codes[name] for name in self.plan.fields},
            {task: values[stay] for task, values in labels.items()},
            {task: values[stay] for task, values in truth.items()},
            part.what, part.share,
        )  # fmt: skip

    def numberings(self, counts: Mapping[str, Counts]) -> dict[str, CodedVocabulary]:
        return {name: self.codes[name].vocabulary(of_field.frequent(self.plan.min_count)) for name, of_field in counts.items()}
