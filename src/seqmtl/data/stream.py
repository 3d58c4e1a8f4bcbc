"""Batches of one split, from memory or from the disk, shared out to ranks, resumable to the batch.

Unusual: the batches of an epoch are a pure function of (seed, epoch) and the files, and the state is a position in *global*
batches. So a resumed run, a run with other workers, and a run on another number of ranks see the very rows of an undisturbed one.

From the disk, an epoch is a random sequence of blocks (row groups), cut into windows of about a million rows, and the rows of a
window are permuted; one window is in use while the next is read. In memory everything is one window. Inside a global batch the rows
stand in the order of the files, and a rank takes a contiguous piece of them, so it reads little more than its part of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from seqmtl.data.histories import Histories
from seqmtl.data.rows import Rows
from seqmtl.data.shards import Shards
from seqmtl.types import Batch

WINDOW = 1 << 20  # rows that are permuted together when they come from the disk

Places = NDArray[np.integer]
T = TypeVar("T")


class _Window(NamedTuple):
    """Blocks that are read together, the place of their first row in the order of the epoch, and how many rows they have."""

    number: int
    blocks: NDArray[np.int64]
    start: int
    rows: int


class _Pieces(NamedTuple):
    """A window, read: for each batch the places of this rank's rows in `rows`."""

    rows: Rows
    places: Iterable[tuple[int, Places]]


class Stream:
    """Iterates over the batches of this rank.

    Args:
        source: the rows, in memory or on the disk.
        batch_size: rows of a global batch; the last one of an epoch may be short.
        seed: shuffles the rows anew each epoch and shares each global batch out to the ranks; one that gets no row of a short batch
            trains on a row of weight 0. None keeps the rows in order, and gives each rank a contiguous range of them.
        rank, world_size: this process among those of the job.
        workers: threads that make batches ahead; 0 makes each when it is asked for.
        histories: of the rows, where the model reads any.
        window: rows that are permuted together when they come from the disk.
    """

    def __init__(
        self,
        source: Rows | Shards,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        histories: Histories | None = None,
        window: int = WINDOW,
    ) -> None:
        self.source, self.seed, self.workers, self.histories, self.window = source, seed, workers, histories, window
        n = len(source)
        if seed is not None:
            self.first, self.last = 0, n
            self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
            self.batches = -(-n // batch_size)
        else:
            self.first, self.last = n * rank // world_size, n * (rank + 1) // world_size
            self.batch_size, self.rank, self.world_size = max(1, batch_size // world_size), 0, 1
            longest = (n + world_size - 1) // world_size
            self.batches = (longest + self.batch_size - 1) // self.batch_size  # of all ranks: a shorter one's last may be empty
        self.epoch = 0
        self.position = 0  # global batches already handed out

    def __len__(self) -> int:
        # Lightning prefetches a batch from a loader without a length, and a resume would lose that one.
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes where the stream stands in that epoch already (a resumed run)."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so nothing happens before the first batch is asked for: Lightning calls iter() before it tells the epoch.
        if self.seed is None:
            self.position = 0
        reader = ThreadPoolExecutor(1, "windows")
        makers = ThreadPoolExecutor(max(1, self.workers), "batches")
        try:
            windows = _ahead((partial(self._read, w) for w in self._windows()), reader, min(1, self.workers))
            for batch in _ahead(self._recipes(windows), makers, 2 * self.workers):
                self.position += 1  # before the batch is handed out: a checkpoint after it must not repeat it
                yield batch
        finally:  # also when an epoch ends early
            makers.shutdown(cancel_futures=True)
            reader.shutdown(cancel_futures=True)

    def _windows(self) -> Iterator[_Window]:
        """The windows that are still to be read."""
        sizes = self.source.sizes if isinstance(self.source, Shards) else np.array([len(self.source)])
        blocks = np.arange(len(sizes))
        if self.seed is not None:
            blocks = np.random.default_rng([self.seed, self.epoch]).permutation(len(sizes))
        ends = np.cumsum(sizes[blocks])
        here, start, cut = self.first + self.position * self.batch_size, 0, 0
        for number in range(len(blocks)):
            if cut == len(blocks):
                break
            stop = max(cut + 1, int(np.searchsorted(ends, start + self.window, "right")))
            end = int(ends[stop - 1])
            if end > here and start < self.last:
                yield _Window(number, blocks[cut:stop], start, end - start)
            start, cut = end, stop

    def _span(self, batch: int) -> tuple[int, int]:
        """First and last place of a global batch in the order of the epoch."""
        start = min(self.first + batch * self.batch_size, self.last)
        return start, min(start + self.batch_size, self.last)

    def _slice(self, batch: int) -> tuple[int, int, float]:
        """Which of the rows of a global batch this rank takes, and their share of it."""
        start, stop = self._span(batch)
        n = stop - start
        lo, hi = (n * r // self.world_size for r in (self.rank, self.rank + 1))
        if lo == hi and n:  # a rank that gets no row trains on one of weight 0, so that all ranks go the same way
            return 0, 1, 0.0
        return lo, hi, (hi - lo) / max(n, 1)

    def _read(self, window: _Window) -> _Pieces:
        order: Places | None = None
        if self.seed is not None:
            order = np.arange(window.rows, dtype=np.int32 if window.rows < 2**31 else np.int64)
            np.random.default_rng([self.seed, self.epoch, window.number]).shuffle(order)
        return self._load(window, self._places(window, order))

    def _places(self, window: _Window, order: Places | None) -> Iterator[tuple[int, Places]]:
        """This rank's rows of each batch, as far as they lie in the window."""
        first = max(self.position, (window.start - self.first) // self.batch_size)
        for batch in range(first, self.batches):
            start, stop = self._span(batch)
            a, b = max(start, window.start), min(stop, window.start + window.rows)
            if a >= b:
                break
            lo, hi, _ = self._slice(batch)
            lo, hi = max(lo - (a - start), 0), min(hi - (a - start), b - a)
            if lo < hi:
                a -= window.start
                mine = np.arange(a + lo, a + hi) if order is None else np.sort(order[a : b - window.start])[lo:hi]
                yield batch, mine

    def _load(self, window: _Window, lazy: Iterator[tuple[int, Places]]) -> _Pieces:
        """Reads the blocks that hold the places."""
        if isinstance(self.source, Rows):
            return _Pieces(self.source, lazy)  # of a whole epoch: each batch's are found when it is made
        pieces = list(lazy)
        edges = np.concatenate([[0], np.cumsum(self.source.sizes[window.blocks])])
        used = np.zeros(len(window.blocks), bool)
        for _, places in pieces:
            used[np.searchsorted(edges, places, "right") - 1] = True
        unread = np.cumsum(np.where(used, 0, np.diff(edges)))  # rows before the end of each block that are not in memory
        moved = [(batch, places - unread[np.searchsorted(edges, places, "right") - 1]) for batch, places in pieces]
        return _Pieces(self.source.read(window.blocks[used].tolist()), moved)

    def _recipes(self, windows: Iterable[_Pieces]) -> Iterator[Callable[[], Batch]]:
        """What makes each batch: places in one window, or in several where it lies across a border."""
        batch = self.position
        parts: list[tuple[Rows, Places]] = []
        for window in windows:
            for number, places in window.places:
                parts.append((window.rows, places))
                lo, hi, share = self._slice(number)
                if sum(len(places) for _, places in parts) == hi - lo:
                    yield partial(self._make, parts, share)
                    batch, parts = number + 1, []
        none = np.empty(0, np.int64)
        for _ in range(batch, self.batches):  # of a range that is a row shorter than the longest
            nothing = self.source if isinstance(self.source, Rows) else self.source.read([])
            yield partial(self._make, [(nothing, none)], 0.0)

    def _make(self, parts: list[tuple[Rows, Places]], share: float) -> Batch:
        rows = Rows.cat([rows.take(places) for rows, places in parts])
        past, past_len = ({}, {}) if self.histories is None else self.histories.gather(rows)
        fields, y = torch.from_numpy(rows.fields), torch.from_numpy(rows.y.astype(np.float32))
        return Batch(fields, y, share=share, past=past, past_len=past_len)


def _ahead(tasks: Iterator[Callable[[], T]], pool: Executor, n: int) -> Iterator[T]:
    """The results of the tasks, in order, up to n of them made before they are asked for."""
    if not n:
        yield from (task() for task in tasks)
        return
    waiting: deque[Future[T]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        if len(waiting) > n:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
