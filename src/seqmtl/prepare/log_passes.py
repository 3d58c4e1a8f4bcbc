"""From the rows of a log, in the order of its files, to a dataset with histories, in bounded memory: three passes over the rows.

    1  rows are dealt to buckets by their user, all rows of a user into one, in the order of the file
    2  bucket by bucket: histories, split, ids of training rows counted; training rows are dealt to a shuffle, validation and
       test rows to buckets by the number of the raw row, histories are appended to one file each
    3  values become ids, and everything is written: training in its random order, validation and test in that of the file

Unusual: only one bucket, about a million rows, is in memory at a time; what grows with the log are the vocabularies.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqmtl.disk import disk_errors
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.ahead import ahead
from seqmtl.prepare.log_positions import Positions
from seqmtl.prepare.log_split import Split
from seqmtl.prepare.past import Ints, Negatives, first_rows, past
from seqmtl.prepare.raw import Report
from seqmtl.prepare.shuffle import Buckets, Shuffle
from seqmtl.prepare.vocabulary import Counts, Vocabulary
from seqmtl.prepare.writer import DatasetWriter

BUCKET = 1 << 20  # rows, about
MOST_BUCKETS = 150  # files that are open at once, four times over
PIECE = 1 << 22  # items of a history that are read at once

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Plan:
    """What becomes of the rows.

    Attributes:
        fields, tasks: their names.
        histories: of each behaviour the task and the label, 0 or 1, that its rows have; made of the field `item`.
        users: rows have a user.
    """

    fields: tuple[str, ...]
    tasks: tuple[str, ...]
    histories: Mapping[str, tuple[str, int]]
    item: str | None
    users: bool
    negatives: Negatives
    split: Split
    min_count: int
    shuffle_seed: int

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise SeqmtlError(f"dataset.prepare.min_count must be above 0, not {self.min_count}")


@dataclass
class Rows:
    """Some rows, in the order of the log.

    Attributes:
        raw: raw rows that these are taken from, those left out too.
        row: (n,) number of the raw row.
        user: (n,) any number that tells users apart, if the plan asks for one.
        ids: {field: (n,) int32} raw ids, MISSING where there is none; labels: {task: (n,) int8}.
        truth: of a simulation: {task: (n,) probability}.
        what, share: which file, and how much of all has been read.
    """

    raw: int
    row: Ints
    user: Ints | None
    ids: Columns
    labels: Columns
    truth: Columns
    what: str
    share: float


class Numbering(Protocol):
    """Raw ids → ids."""

    size: int

    def encode(self, ids: NDArray[np.int32], /) -> NDArray[np.int32]: ...


class Passes:
    """The three passes. Files below `directory` vanish at the end of the block.

    Args:
        expected: about the number of rows; it sets the number of buckets, and so the order of the training rows.
        truth: rows come with their true probabilities.

    Raises:
        SeqmtlError: they would not fit on the disk.
    """

    def __init__(self, directory: Path, plan: Plan, expected: int, truth: bool) -> None:
        self.directory, self.plan = directory, plan
        self.buckets = max(1, min(MOST_BUCKETS, round(expected / BUCKET)))
        self.expected = max(1, expected)
        self.types = {"_row": "int64"} | ({"_user": "int64"} if plan.users else {})
        self.types |= dict.fromkeys(plan.fields, "int32") | dict.fromkeys(plan.tasks, "int8")
        self.types |= {f"_truth_{task}": "float64" for task in (plan.tasks if truth else ())}
        ends = {f"{name}_{what}": kind for name in plan.histories for what, kind in (("end", "int64"), ("len", "int32"))}
        self.arranged = {name: kind for name, kind in self.types.items() if name != "_user"} | ends
        self._refuse_small_disk()
        self.raw = 0
        self.counts = {field: Counts() for field in plan.fields}
        self.positions = Positions(plan.tasks)
        self.items = dict.fromkeys(plan.histories, 0)

    def run(self, chunks: Iterable[Rows], numberings: Callable[[dict[str, Counts]], Mapping[str, Numbering]],
            writer: DatasetWriter, report: Report) -> dict[str, int]:  # fmt: skip
        """All three.

        Args:
            numberings: of each field, from the counts of its raw ids in training.

        Returns:
            the number of ids of each field.
        """
        with ExitStack() as closing:
            closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
            with Buckets(self.directory / "users", self.types, self.buckets) as users:
                self._deal(ahead(iter(chunks)), users, report)
                self._arrange(users, closing, report)
            numbering = numberings(self.counts)
            self._write(numbering, writer, report)
        return {name: numbering[name].size for name in self.plan.fields}

    def _deal(self, chunks: Iterator[Rows], users: Buckets, report: Report) -> None:
        """The first pass."""
        for rows in chunks:
            self.raw += rows.raw
            columns = {"_row": rows.row, **rows.ids, **rows.labels, **{f"_truth_{task}": p for task, p in rows.truth.items()}}
            if rows.user is not None:
                columns["_user"] = rows.user
                bucket = rows.user % self.buckets
            else:
                bucket = np.minimum(rows.row * self.buckets // self.expected, self.buckets - 1)
            users.add(columns, bucket)
            report(f"reading {rows.what}", self.raw, rows.share)

    def _arrange(self, users: Buckets, closing: ExitStack, report: Report) -> None:
        """The second pass."""
        self.n = len(users)
        n_buckets = max(1, min(MOST_BUCKETS, round(self.n / BUCKET)))
        self.train = Shuffle(self.directory / "train", self.arranged, n_buckets, self.plan.shuffle_seed)
        closing.enter_context(self.train)
        self.rest = {
            name: closing.enter_context(Buckets(self.directory / name, self.arranged, n_buckets)) for name in ("valid", "test")
        }
        done = 0
        with disk_errors(self.directory):
            files = {name: closing.enter_context(self._history(name).open("wb")) for name in self.plan.histories}
        for columns, split, flat in ahead(self._bucket(users.read(bucket)) for bucket in range(users.n)):
            done += len(split)
            with disk_errors(self.directory):
                for name, ids in flat.items():
                    files[name].write(ids.data)
            training = {name: values[split == 0] for name, values in columns.items()}
            for field, counts in self.counts.items():
                counts.add(training[field])
            self.train.add_rows(training)
            for number, rest in enumerate(self.rest.values(), 1):
                here = {name: values[split == number] for name, values in columns.items()}
                rest.add(here, here["_row"] * n_buckets // self.raw)
            report("histories and split", done, done / max(1, self.n))
        for file in files.values():
            file.close()

    def _bucket(self, columns: Columns) -> tuple[Columns, NDArray[np.int8], Columns]:
        """Rows with their histories, the split of each, and the flat histories."""
        plan, row = self.plan, columns["_row"]
        if not plan.users:
            return columns, plan.split.places(row, self.raw, row, row, row), {}
        order = np.argsort(columns["_user"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        row, user = columns["_row"], columns.pop("_user")
        first = first_rows(user)
        place = np.arange(len(row)) - first
        of = np.bincount(first, minlength=len(row))[first]
        known = user >= 0  # the others are nobody's, each a user of its own
        self.positions.add(place[known], of[known], {task: columns[task][known] for task in plan.tasks})
        flat = {}
        for stream, (name, (task, label)) in enumerate(plan.histories.items()):
            assert plan.item is not None
            happened, window = (columns[task] == label) & known, None
            if label == 0:
                happened &= plan.negatives.kept(row, stream)
                window = plan.negatives.window
            behaviour = past(first, columns[plan.item], happened, window)
            columns[f"{name}_end"] = behaviour.end + self.items[name]
            columns[f"{name}_len"] = behaviour.length
            self.items[name] += len(behaviour.flat)
            flat[name] = behaviour.flat
        return columns, plan.split.places(row, self.raw, user, place, of), flat

    def _write(self, numbering: Mapping[str, Numbering], writer: DatasetWriter, report: Report) -> None:
        """The third pass."""

        def encoded(columns: Columns) -> tuple[Columns, Columns | None]:
            truth = {task: columns.pop(f"_truth_{task}") for task in self.plan.tasks if f"_truth_{task}" in columns}
            return columns | {name: numbering[name].encode(columns[name]) for name in self.plan.fields}, truth or None

        done = 0
        for split, chunks in (("train", self.train.chunks()), *((name, _in_order(rest)) for name, rest in self.rest.items())):
            for columns, truth in ahead(map(encoded, chunks)):
                writer.add(split, columns, truth)
                done += len(columns["_row"])
                report("writing", done, done / max(1, self.n))
        for name in self.plan.histories:
            assert self.plan.item is not None
            with disk_errors(self.directory), self._history(name).open("rb") as f:
                while len(ids := np.fromfile(f, np.int32, PIECE)):
                    writer.history(name, numbering[self.plan.item].encode(ids))

    def _history(self, name: str) -> Path:
        return self.directory / f"{name}.history"

    def _refuse_small_disk(self) -> None:
        # Rows lie there twice while they are arranged, then arranged and, as far as they are written, in shards.
        of_row = sum(np.dtype(kind).itemsize for types in (self.types, self.arranged) for kind in types.values())
        needed = self.expected * (of_row + 4 * len(self.plan.histories))
        there = next(p for p in (self.directory, *self.directory.parents) if p.exists())
        with disk_errors(self.directory):
            free = shutil.disk_usage(there).free
        if free < needed:
            raise SeqmtlError(
                f"preparing about {self.expected:,} rows needs some {needed / 1e9:.1f} GB on the disk of {self.directory.parent},"
                f" but only {free / 1e9:.1f} GB are free; make room there or choose another place (data_dir)"
            )


def _in_order(rows: Buckets) -> Iterator[Columns]:
    """All rows, in the order of the file."""
    for bucket in range(rows.n):
        columns = rows.read(bucket)
        order = np.argsort(columns["_row"], kind="stable")
        yield {name: values[order] for name, values in columns.items()}


def frequent(counts: Mapping[str, Counts], min_count: int) -> dict[str, Vocabulary]:
    """Raw ids that occur often enough, in their order."""
    return {name: Vocabulary(of_field.frequent(min_count)) for name, of_field in counts.items()}
