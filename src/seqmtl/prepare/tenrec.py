"""Tenrec's QK-video.csv → shards with causal histories (https://tenrec0.github.io; Yuan et al., Tenrec, NeurIPS 2022).

    user_id, item_id, click, follow, like, share, video_category, watching_times, gender, age

There are no times: the order of the file is taken for the order of time of each user, as the official scripts do. The histories
of a row are the items of the user's earlier rows that were clicked, followed, liked, shared, or passed by (`negative`: click 0);
the official ones are the first ten clicks of a user, the same in all of its rows.

Unusual: `watching_times` happens after the impression and is not read. Follows, likes and shares without a click are kept, as
nothing says that a click must come first, and counted in meta.json; so is the positive rate by position in the user's list,
which shows whether the file is in the order of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqmtl.data.meta import OUTCOMES
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.csv_table import CsvFile, leave_out
from seqmtl.prepare.log_labels import StepOrder
from seqmtl.prepare.log_passes import Passes, Plan, Rows, frequent
from seqmtl.prepare.log_split import Split
from seqmtl.prepare.past import Negatives
from seqmtl.prepare.raw import BadLines, Report
from seqmtl.prepare.truth import Truth
from seqmtl.prepare.vocabulary import MISSING
from seqmtl.prepare.writer import DatasetWriter
from seqmtl.types import Field, Schema, Task

if TYPE_CHECKING:
    import polars as pl

FILE, ORACLE = "QK-video.csv", "oracle_QK-video.parquet"
FIELDS = ("user_id", "item_id", "video_category", "gender", "age")
TASKS = ("click", "follow", "like", "share")
HISTORIES = {"click": ("click", 1), "follow": ("follow", 1), "like": ("like", 1), "share": ("share", 1), "negative": ("click", 0)}
AFTER_A_CLICK = {"click": None, "follow": "click", "like": "click", "share": "click"}  # counted, not enforced
NONE = r"\N"
SUBSETS = {"1M": 1_000_017, "all": MISSING}  # lowest user outside
SPLITS = {"user_tail": "user_tail", "random_811": "random", "user_holdout": "user_holdout"}


def prepare(
    raw_dir: Path,
    directory: Path,
    *,
    options: dict[str, Any] | None = None,
    report: Report = lambda what, rows, share: None,
    fields: Sequence[str] = FIELDS,
    parents: Mapping[str, str | None] | None = None,
    subset: str = "1M",
    negative: str | Mapping[str, Any] = "all",
    split: str = "user_tail",
    valid_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
    shuffle_seed: int = 0,
    min_count: int = 1,
    on_bad_line: str = "error",
    rows_per_shard: int = 1_000_000,
) -> None:
    """Converts `raw_dir`/QK-video.csv into a dataset in `directory`.

    Args:
        fields: columns that models read, user_id and item_id among them.
        parents: the tasks with the one that must happen first; null for all by default, and never enforced.
        subset: `1M` leaves out users from 1,000,017 on, as the official scripts do; `all`.
        negative: which skips are stored: `all`, `{keep_prob: p}` each with probability p, `{window: n}` only those among the user's
            last n rows.
        split: `user_tail`, `random_811` (Tenrec's: rows 8:1:1) or `user_holdout` (`log_split.Split`).
        min_count: ids seen less often in the training rows become 0.
        on_bad_line: `error`, or `skip` and count.

    Raises:
        SeqmtlError: the file is missing or bad; an option makes no sense; a split has no rows; the disk refuses.
    """
    if not isinstance(parents or {}, Mapping):
        raise SeqmtlError(f"dataset.prepare.parents must be a mapping such as {{click: null, follow: click, …}}, not {parents!r}")
    parents = dict(parents or dict.fromkeys(TASKS))
    _check(fields, parents, subset, split, valid_share, test_share)
    rule = Split(SPLITS[split], valid_share, test_share, split_seed)
    plan = Plan(tuple(fields), TASKS, HISTORIES, "item_id", True, Negatives.of(negative), rule, min_count, shuffle_seed)
    bad, steps = BadLines(on_bad_line), StepOrder(AFTER_A_CLICK, "keep")
    writer = DatasetWriter(directory, fields, parents, options, rows_per_shard, dict.fromkeys(HISTORIES, "item_id"))
    file = _open(raw_dir)
    oracle = raw_dir / ORACLE
    truth = Truth(oracle, TASKS) if oracle.is_file() else None

    passes = Passes(directory / ".spill", plan, _expected(file, SUBSETS[subset]), truth is not None)
    rows = _rows(file, plan, SUBSETS[subset], bad, steps, truth)
    sizes = passes.run(rows, lambda counts: frequent(counts, min_count), writer, report)
    if truth is not None:
        truth.finish()
    statistics = passes.positions.statistics() | {"order_violations": dict(steps.kept)}
    writer.finish(sizes, {FILE: file.source}, bad.counts, None, statistics)


def _check(
    fields: Sequence[str], parents: Mapping[str, str | None], subset: str, split: str, valid_share: float, test_share: float
) -> None:
    if not isinstance(fields, Sequence) or isinstance(fields, str):
        raise SeqmtlError(f"dataset.prepare.fields must be a list of columns, not {fields!r}")
    outcomes = sorted((OUTCOMES | set(TASKS)) & set(fields))
    if outcomes:
        raise SeqmtlError(f"{', '.join(outcomes)} happens after the impression or is a label: it must not be a field")
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown or not {"user_id", "item_id"} <= set(fields):
        raise SeqmtlError(
            f"dataset.prepare.fields must be user_id, item_id and any others of {', '.join(FIELDS)}, not {', '.join(fields)}"
        )
    if set(parents) != set(TASKS):
        raise SeqmtlError(f"dataset.prepare.parents must name {', '.join(TASKS)}; dataset.tasks chooses from them")
    Schema(tuple(Field(name, 1) for name in fields), tuple(Task(name, parent) for name, parent in parents.items()))
    for key, value, known in (("subset", subset, SUBSETS), ("split", split, SPLITS)):
        if value not in known:
            raise SeqmtlError(f"dataset.prepare.{key} must be one of {', '.join(known)}, not {value!r}")
    if split == "random_811" and (valid_share, test_share) != (0.1, 0.1):
        raise SeqmtlError(
            "dataset.prepare.split=random_811 has a valid_share and a test_share of 0.1; take user_tail or user_holdout"
        )


def _open(raw_dir: Path) -> CsvFile:
    if not (raw_dir / FILE).is_file():
        raise SeqmtlError(
            f"there is no {FILE} in {raw_dir}.\n"
            "Download Tenrec (https://static.qblv.qq.com/qblv/h5/algo-frontend/tenrec_dataset.html; CC BY-NC 4.0: not for"
            " commercial use), put its QK-video.csv there, and run this command again (or give raw_dir=<where it is>).\n"
            "Without it, simulated data of the same format work now: seqmtl prepare dataset=tenrec_sim"
        )
    return CsvFile(raw_dir / FILE)


def _expected(file: CsvFile, outside: int) -> int:
    """About the number of rows that are kept: of the real file's 493 million a quarter is of the 1M subset."""
    import polars as pl

    users = pl.Series([line.split(b",", 1)[0].decode(errors="replace") for line in file.sample()], dtype=pl.String)
    share = (users.cast(pl.Int64, strict=False) < outside).mean()
    return max(1, round(file.rows() * (share if isinstance(share, float) else 1.0)))


def _rows(file: CsvFile, plan: Plan, outside: int, bad: BadLines, steps: StepOrder, truth: Truth | None) -> Iterator[Rows]:
    """The rows of the file, block by block."""
    ids = [*dict.fromkeys(("user_id", "item_id", *plan.fields))]
    for block in file.frames([*ids, *TASKS], bad):
        frame = _numbers(file.path, block.frame, ids, bad)
        at = frame["line"].to_numpy() - 2 - block.first
        stay = frame["user_id"].to_numpy() < outside
        bad.counts["user_outside_of_1M"] += int((~stay).sum())
        probabilities = {} if truth is None else truth.next(block.lines, at[stay])
        columns = {name: frame[name].to_numpy()[stay] for name in (*ids, *TASKS)}
        labels = {task: columns[task] for task in TASKS}
        row = block.first + at[stay]
        steps.check(labels, row)
        fields = {name: columns[name] for name in plan.fields}
        yield Rows(
            block.lines, row, columns["user_id"].astype(np.int64), fields, labels, probabilities, file.path.name, block.share
        )


def _numbers(path: Path, frame: pl.DataFrame, ids: Sequence[str], bad: BadLines) -> pl.DataFrame:
    """Text as numbers; MISSING for what is empty or \\N, which a user and an item must not be."""
    import polars as pl

    text = frame.with_columns(pl.when(pl.col(ids) != NONE).then(pl.col(ids)))
    number = pl.col(ids).cast(pl.Int64, strict=False)
    frame = text.with_columns(number, pl.col(TASKS).cast(pl.Int8, strict=False))
    for name in (*ids, *TASKS):
        empty_is_right = name not in ("user_id", "item_id", *TASKS)
        right = pl.col(name).is_in([0, 1]) if name in TASKS else pl.col(name).is_between(0, MISSING - 1)
        if empty_is_right:
            right |= pl.col(name).is_null() & text[name].is_null()
        right = right.fill_null(False)
        keep = frame.select(right).to_series()
        if keep.all():
            continue
        wrong = text.filter(~keep)
        must = "it must be 0 or 1" if name in TASKS else f"it must be a whole number from 0 to {MISSING - 1}"

        def words(i: int, values: pl.Series = wrong[name], must: str = must) -> str:
            return f"column {values.name} {'is empty' if values[i] is None else f'is {values[i]!r}'}, {must}"

        leave_out(bad, path, wrong["line"], "label" if name in TASKS else name, words)
        frame, text = frame.filter(keep), text.filter(keep)
    return frame.with_columns(pl.col(ids).fill_null(MISSING).cast(pl.Int32))
