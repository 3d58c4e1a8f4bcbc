"""Raw ids of a field counted and numbered, with memory for the ids that there are and not for the rows.

Unusual: a table by id where the ids lie within some millions of each other, as those of Ali-CCP do, sorted arrays elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

MISSING = 2**31 - 1  # stands for "no such field in this row" among raw ids, which must be smaller
SPAN = 1 << 24  # ids from the first to the last that get a table
WAITING = 1 << 20  # ids that are put aside before they are sorted in


class Counts:
    """How often each id of a field occurs."""

    def __init__(self) -> None:
        self.low = 0
        self.table: NDArray[np.uint32] | None = np.zeros(0, np.uint32)  # of the ids from `low` on; None: they lie too far apart
        self.ids, self.counts = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self.waiting: list[tuple[Ids, NDArray[np.int64]]] = []
        self.n_waiting = 0

    def add(self, ids: Ids) -> None:
        """Counts ids, MISSING left out."""
        if ids.max(initial=-1) == MISSING:
            ids = ids[ids != MISSING]
        if not len(ids):
            return
        if self.table is not None and self._reach(int(ids.min()), int(ids.max()) + 1):
            np.add.at(self.table, ids - self.low, np.uint32(1))
            return
        self._wait(*np.unique(ids, return_counts=True))

    def frequent(self, min_count: int) -> Ids:
        """The ids that occur at least `min_count` times (1 or more), sorted."""
        if self.table is not None:
            return (np.flatnonzero(self.table >= min_count) + self.low).astype(np.int32)
        self._merge()
        return self.ids[self.counts >= min_count]

    def _reach(self, low: int, high: int) -> bool:
        """Makes the table hold ids from `low` to `high`; False, and no table any more, if that is too many."""
        assert self.table is not None
        size = len(self.table)
        if size and self.low <= low and high <= self.low + size:
            return True
        if size:
            low, high = min(low, self.low), max(high, self.low + size)
        low, high = low // 65536 * 65536, -(-high // 65536) * 65536
        if high - low > SPAN:
            seen = np.flatnonzero(self.table)
            self._wait((seen + self.low).astype(np.int32), self.table[seen].astype(np.int64))
            self.table = None
            return False
        table = np.zeros(high - low, np.uint32)
        if size:
            table[self.low - low : self.low - low + size] = self.table
        self.low, self.table = low, table
        return True

    def _wait(self, ids: Ids, counts: NDArray[np.int64]) -> None:
        self.waiting.append((ids, counts))
        self.n_waiting += len(ids)
        if self.n_waiting > max(WAITING, len(self.ids)):
            self._merge()

    def _merge(self) -> None:
        ids = np.concatenate([self.ids, *(ids for ids, _ in self.waiting)])
        counts = np.concatenate([self.counts, *(counts for _, counts in self.waiting)])
        order = np.argsort(ids, kind="stable")
        ids, counts = ids[order], counts[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(len(ids), 1), np.bool_), ids[1:] != ids[:-1]]))
        self.ids, self.counts = ids[first], np.add.reduceat(counts, first) if len(first) else counts
        self.waiting, self.n_waiting = [], 0


class Vocabulary:
    """The numbers that ids get: 1 for the smallest that is known, and so on; 0 for the others.

    Args:
        known: sorted ids.
    """

    def __init__(self, known: Ids) -> None:
        self.known = known
        self.size = len(known) + 1
        self.low = int(known[0]) if len(known) else 0
        span = int(known[-1]) - self.low + 1 if len(known) else 0
        self.table: Ids | None = None
        if span <= SPAN:
            self.table = np.zeros(span + 1, np.int32)  # the last one is for whatever lies outside
            self.table[known - self.low] = np.arange(1, self.size)

    def encode(self, ids: Ids) -> Ids:
        if self.table is not None:
            place = (ids - np.int32(self.low)).view(np.uint32)  # below `low` is far above the rest
            return self.table.take(np.minimum(place, np.uint32(len(self.table) - 1)))
        place = np.searchsorted(self.known, ids).clip(max=len(self.known) - 1)
        return np.where(self.known[place] == ids, place + 1, 0).astype(np.int32)
