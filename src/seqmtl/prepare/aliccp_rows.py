"""The rows of Ali-CCP's raw files, block by block: read here, taken apart by a few threads, handed on in the order of the file.

Unusual: threads are enough, because numpy lets go of the interpreter while it works.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqmtl.prepare.aliccp_bags import Bag, Places
from seqmtl.prepare.aliccp_line import FIELDS, explain
from seqmtl.prepare.aliccp_tokens import ZERO, Bools, Ints, Lines, read_lines
from seqmtl.prepare.aliccp_users import Keys, Users
from seqmtl.prepare.raw import BadLines, RawFile, Report
from seqmtl.prepare.truth import Truth
from seqmtl.prepare.vocabulary import MISSING

BLOCK = 4 << 20  # bytes that a thread gets
PIECE = 1 << 19  # bytes that it works on at once: what they become fits into the cache, and needs no new memory
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
AHEAD = 8  # blocks that are read before they are asked for
SKELETON, COMMON = 6, 3  # comma-separated fields

Bad = list[tuple[int, bytes]]  # lines that could not be read, by their number in the block
T = TypeVar("T")


@dataclass
class Rows:
    """The kept rows of a block, and what was left out.

    Attributes:
        lines: lines in the block.
        row: (n,) number of the raw row; click, purchase: (n,) 0 or 1.
        ids: (F, n) raw ids, MISSING where there is none.
        impossible: rows with a purchase and no click.
        user: (n,) line of the common features.
        bags: the row's own ids of the multi-valued fields; columns: (n,) where its ids lie, its user's or its own.
        truth: of a simulation: (n,) probability of each task.
    """

    lines: int
    row: Ints
    click: NDArray[np.uint8]
    purchase: NDArray[np.uint8]
    ids: NDArray[np.int32]
    impossible: int
    user: Ints
    bags: dict[str, Bag]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    truth: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    @staticmethod
    def of(parts: list[Rows], lines: int) -> Rows:
        """One after another; none has a truth yet, nor a place of its ids."""
        row, click, purchase, user = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "click", "purchase", "user")
        )
        ids = np.concatenate([part.ids for part in parts], axis=1)
        bags = Bag.joined([part.bags for part in parts])
        return Rows(lines, row, click, purchase, ids, sum(part.impossible for part in parts), user, bags)


def read_users(path: Path, places: Places, bad: BadLines, sources: dict[str, Any], report: Report) -> Users:
    """The common features of an official part; `places` takes the ids of their multi-valued fields."""
    raw = _Raw(path)
    keys, ids = [], [np.empty((len(FIELDS), 0), np.int32)]
    for first, n, share, (of_block, of_keys, of_bags, left_out) in _blocks(raw, lambda block: _common(block, places.names)):
        for i, line in left_out:
            reason, words = explain(line, COMMON, None, raw.open_at == first + i, places.names)
            bad.line(path, first + i + 1, f"common_features: {reason}", words)
        keys.append(of_keys)
        ids.append(of_block)
        places.add_users(of_bags)
        report(f"reading {path.name}", first + n, share)
    sources[path.name] = raw.source
    places.end_users()
    return Users(Keys.joined(keys), np.concatenate(ids, axis=1))


def read_rows(
    path: Path, users: Users, places: Places, bad: BadLines, sources: dict[str, Any], report: Report, truth: Truth | None
) -> Iterator[Rows]:
    """The kept rows of an official part; `places` has its users and takes the ids that rows have of their own."""
    raw = _Raw(path)
    for first, n, share, (rows, left_out) in _blocks(raw, lambda block: _skeleton(block, users, places.names)):
        for i, line in left_out:
            bad.line(path, first + i + 1, *explain(line, SKELETON, users, raw.open_at == first + i, places.names))
        bad.counts["purchase_without_click"] += rows.impossible
        if truth is not None:
            rows.truth = truth.next(n, rows.row)
        rows.columns = places.of_rows(rows.user, rows.bags)
        rows.row += first
        yield rows
        report(f"reading {path.name}", first + n, share)
    if truth is not None:
        truth.finish()
    sources[path.name] = raw.source


class _Raw(RawFile):
    """A raw file as blocks of bytes."""

    open_at = -1  # number, from 0, of a last line without a line feed

    def pieces(self) -> Iterator[bytes]:
        """Blocks of whole lines."""
        with self._readable(), self.path.open("rb") as f:
            while block := f.read(BLOCK):
                block += f.readline()
                self._digest.update(block)
                self.bytes += len(block)
                yield block


def _blocks(raw: _Raw, work: Callable[[bytes], tuple[int, T]]) -> Iterator[tuple[int, int, float, T]]:
    """Of each block, in the order of the file: its first line, its lines, the share of the file so far, what `work` made."""
    first, done = 0, 0
    waiting: deque[tuple[int, bool, Future[tuple[int, T]]]] = deque()
    pool = ThreadPoolExecutor(THREADS)

    def next_one() -> tuple[int, int, float, T]:
        nonlocal first, done
        size, whole, future = waiting.popleft()
        n, made = future.result()
        first, done = first + n, done + size
        if not whole:
            raw.open_at = first - 1
        return first - n, n, done / raw.total, made

    try:
        for block in raw.pieces():
            waiting.append((len(block), block.endswith(b"\n"), pool.submit(work, block)))
            if len(waiting) > AHEAD:
                yield next_one()
        while waiting:
            yield next_one()
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(block: bytes) -> Iterator[bytes]:
    """The block in pieces of whole lines."""
    start = 0
    while start < len(block):
        end = block.rfind(b"\n", start, start + PIECE) + 1 or block.find(b"\n", start) + 1 or len(block)
        if len(block) - start <= PIECE:
            end = len(block)
        yield block[start:end]
        start = end


def _common(block: bytes, names: Sequence[str]) -> tuple[int, tuple[NDArray[np.int32], Keys, dict[str, Bag], Bad]]:
    n, ids, keys, bags, left_out = 0, [], [], [], []
    for piece in _pieces(block):
        lines = read_lines(piece, COMMON - 1, names)
        right = np.flatnonzero(~lines.bad)
        ids.append(lines.ids.take(right, axis=1))
        keys.append(Keys.of(lines, right))
        bags.append({name: bag.of_lines(right) for name, bag in lines.bags.items()})
        left_out += [(n + i, line) for i, line in lines.left_out()]
        n += lines.n
    return n, (np.concatenate(ids, axis=1), Keys.joined(keys), Bag.joined(bags), left_out)


def _skeleton(block: bytes, users: Users, names: Sequence[str]) -> tuple[int, tuple[Rows, Bad]]:
    n, parts, left_out = 0, [], []
    for piece in _pieces(block):
        lines = read_lines(piece, SKELETON - 1, names)
        parts.append(_joined_with(users, lines, n))
        left_out += [(n + i, line) for i, line in lines.left_out()]
        n += lines.n
    return n, (Rows.of(parts, n), left_out)


def _joined_with(users: Users, lines: Lines, first: int) -> Rows:
    """The kept rows of some lines with their common features; marks lines with other labels or without a user as bad."""
    comma = np.ascontiguousarray(lines.commas.T)
    click, no_click = _label(lines, comma[0], comma[1])
    purchase, no_purchase = _label(lines, comma[1], comma[2])
    user = users.find(lines.text, comma[2] + 1, comma[3])
    lines.bad |= no_click | no_purchase | (user < 0)
    impossible = ~lines.bad & (click < purchase)
    kept = np.flatnonzero(~lines.bad & ~impossible)
    ids = lines.ids.take(kept, axis=1)
    user = user[kept]
    for f, column in users.columns.items():
        shared = column.take(user)
        ids[f] = np.where(shared != MISSING, shared, ids[f])
    bags = {name: bag.of_lines(kept) for name, bag in lines.bags.items()}
    return Rows(lines.n, kept + first, click[kept], purchase[kept], ids, int(impossible.sum()), user, bags)


def _label(lines: Lines, before: Ints, after: Ints) -> tuple[NDArray[np.uint8], Bools]:
    """The labels between two commas, and which of them are none."""
    label = lines.text.take(before + 1, mode="clip") - np.uint8(ZERO)
    return label, (after - before != 2) | (label > 1)
