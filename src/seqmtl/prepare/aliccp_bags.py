"""Multi-valued fields of Ali-CCP: all ids of 109_14, 110_14, 127_14, 150_14 and 210, in the order of the line.

A flat array for each: the ids of all users, in the order of the common features, then those of the rows that have some of their
own, in the order of the skeleton; first of the training part, then of the test part. The rows of a user share one place. As with
the other fields the user's ids override the row's own: these count only where the user has none of that field.

Unusual: all ids of the users are some hundred million, so they pass through: to a file as they are read, from it in pieces when
they are counted and again when they are numbered. Only where a user's ids end is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.disk import disk_errors
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.aliccp_line import BAGS
from seqmtl.prepare.raw import Report
from seqmtl.prepare.vocabulary import Counts, Ids, Vocabulary
from seqmtl.prepare.writer import DatasetWriter

PIECE = 1 << 20  # ids that are in memory at once

Ints = NDArray[np.int64]


def chosen_bags(names: object) -> tuple[str, ...]:
    """The multi-valued fields that are asked for, in the order of BAGS.

    Raises:
        SeqmtlError: one of them is none.
    """
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise SeqmtlError(f"dataset.prepare.bags must be a list like [109_14,210], not {names!r}")
    numbers = {int(name): name for name in BAGS}  # YAML reads 109_14 as 10914
    found = [numbers.get(name, name) if isinstance(name, int) else name for name in names]
    unknown = [str(name) for name in found if name not in BAGS]
    if unknown:
        raise SeqmtlError(
            f"dataset.prepare.bags: Ali-CCP has no multi-valued field {', '.join(unknown)}; those it has are {', '.join(BAGS)}"
        )
    return tuple(name for name in BAGS if name in found)


@dataclass
class Bag:
    """The ids of a multi-valued field: `length` (n,) is how many each line has, `ids` are those of all lines, in their order."""

    length: Ints
    ids: Ids

    def of_lines(self, which: Ints) -> Bag:
        """That of some lines, given in order."""
        if len(which) == len(self.length):
            return self
        keep = np.zeros(len(self.length), np.bool_)
        keep[which] = True
        return Bag(self.length[which], self.ids[np.repeat(keep, self.length)])

    @staticmethod
    def joined(parts: Sequence[Mapping[str, Bag]]) -> dict[str, Bag]:
        """The fields of one line after another."""
        names = parts[0] if parts else ()
        return {
            name: Bag(np.concatenate([part[name].length for part in parts]), np.concatenate([part[name].ids for part in parts]))
            for name in names
        }


class Places:
    """Where the ids of an official part lie in the flat arrays, which grow as its users, and then its rows, are read.

    Args:
        first: number of ids that each array has already.
        put: takes the next ids of an array.
    """

    def __init__(self, first: Mapping[str, int], put: Callable[[str, Ids], None]) -> None:
        self.names = tuple(first)
        self.items = dict(first)
        self._put = put
        self._lengths: dict[str, list[Ints]] = {name: [np.array([n])] for name, n in first.items()}
        self.bounds: dict[str, Ints] = {}  # user u has the ids from bounds[u] to bounds[u + 1]
        self.used = np.zeros(0, np.bool_)  # users of whom there is a kept row

    def add_users(self, bags: Mapping[str, Bag]) -> None:
        """The next lines of the common features."""
        for name, bag in bags.items():
            self._lengths[name].append(bag.length)
            self._append(name, bag.ids)

    def end_users(self) -> None:
        """There are no more of them."""
        for name in self.names:
            self.bounds[name] = np.cumsum(np.concatenate(self._lengths.pop(name)))
            self.used = np.zeros(len(self.bounds[name]) - 1, np.bool_)

    def of_rows(self, user: Ints, own: Mapping[str, Bag]) -> dict[str, NDArray[Any]]:
        """`<name>_end` and `<name>_len` of the next rows.

        Args:
            user: (n,) line of the common features; own: what the rows' own lines say.
        """
        columns: dict[str, NDArray[Any]] = {}
        for name in self.names:
            self.used[user] = True
            bounds, bag = self.bounds[name], own[name]
            end = bounds[user + 1]
            length = end - bounds[user]
            alone = np.flatnonzero(length == 0)
            bag = bag.of_lines(alone)
            end[alone] = self.items[name] + np.cumsum(bag.length)
            length[alone] = bag.length
            self._append(name, bag.ids)
            columns |= {f"{name}_end": end, f"{name}_len": length.astype(np.int32)}
        return columns

    def counted(self, name: str, start: int, ids: Ids) -> Ids:
        """What counts of the ids from `start` on: those of rows, and of users of whom there is a kept row."""
        bounds, stop = self.bounds[name], start + len(ids)
        first, last = np.searchsorted(bounds, start, "right") - 1, np.searchsorted(bounds, stop)
        if start >= bounds[-1] or self.used[first:last].all():
            return ids
        here = np.diff(bounds[first : last + 1].clip(start, stop))
        keep = np.repeat(self.used[first:last], here)
        return np.concatenate([ids[: len(keep)][keep], ids[len(keep) :]])

    def _append(self, name: str, ids: Ids) -> None:
        self.items[name] += len(ids)
        self._put(name, ids)


class RawIds:
    """Raw ids put aside below `directory`, a file for each of `names`.

    Raises:
        SeqmtlError: the disk refuses.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self.directory = directory
        with disk_errors(directory):
            directory.mkdir(parents=True)
            self._files = {name: (directory / name).open("wb") for name in names}

    def put(self, name: str, ids: Ids) -> None:
        """Appends ids."""
        with disk_errors(self.directory):
            self._files[name].write(np.ascontiguousarray(ids).data)

    def pieces(self, name: str) -> Iterator[Ids]:
        """All of them, PIECE at a time; no more can be appended."""
        with disk_errors(self.directory):
            self._files[name].close()
            with (self.directory / name).open("rb") as f:
                while len(ids := np.fromfile(f, np.int32, PIECE)):
                    yield ids

    def __enter__(self) -> RawIds:
        return self

    def __exit__(self, *of_error: object) -> None:
        for file in self._files.values():
            file.close()


def write_bags(raw: RawIds, places: Places, min_count: int, writer: DatasetWriter, report: Report) -> dict[str, Vocabulary]:
    """Counts and numbers the ids of the training part, and writes them.

    An id is counted as often as it stands in the line of a user of whom there is a kept row, once however many these are, and in
    the kept rows that have ids of their own.
    """
    vocabulary, done, total = {}, 0, sum(places.items.values())
    for name in places.names:
        counts, start = Counts(), 0
        for ids in raw.pieces(name):
            counts.add(places.counted(name, start, ids))
            start += len(ids)
        vocabulary[name] = Vocabulary(counts.frequent(min_count))
        for ids in raw.pieces(name):
            writer.history(name, vocabulary[name].encode(ids))
            done += len(ids)
            report("writing bags", done, done / total)
    return vocabulary
