"""The common features of Ali-CCP: raw ids by the index that a skeleton's lines name.

Unusual: the indices of many lines are looked up at once, by a hash of their bytes, and then compared byte by byte, so the answer
is exact for indices of any length. Eight bytes make a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqmtl.prepare.aliccp_tokens import Bools, Bytes, Ints, Lines, read_words
from seqmtl.prepare.vocabulary import MISSING

Words = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class Keys:
    """The indices of some lines: `text`, one after another (`size` bytes), and where each starts and ends."""

    def __init__(self, text: Bytes, length: Ints) -> None:
        self.size = len(text)
        self.text = padded(text)
        self.end = np.cumsum(length)
        self.start = self.end - length

    @staticmethod
    def of(lines: Lines, which: Ints) -> Keys:
        """The indices of the lines `which` of a file of common features."""
        start, length = lines.start[which], lines.commas[which, 0] - lines.start[which]
        shift = np.repeat(start - (np.cumsum(length) - length), length)
        return Keys(lines.text[shift + np.arange(len(shift))], length)

    @staticmethod
    def joined(parts: Sequence[Keys]) -> Keys:
        none = [np.zeros(0, np.int64)]
        text = [part.text[: part.size] for part in parts] + [np.zeros(0, np.uint8)]
        return Keys(np.concatenate(text), np.concatenate([part.end - part.start for part in parts] + none))


class Users:
    """The raw ids of all lines of a file of common features, by their index; of an index that repeats, the last line.

    Args:
        keys: the index of each line.
        ids: (F, n) raw ids of each line.
    """

    def __init__(self, keys: Keys, ids: NDArray[np.int32]) -> None:
        self.keys = keys
        self.salt = 0
        while not self._ordered():
            self.salt += 1
        told = (ids != MISSING).any(axis=1)
        self.columns = {f: np.ascontiguousarray(ids[f]) for f in np.flatnonzero(told).tolist()}  # of the fields that any line has

    def find(self, text: Bytes, start: Ints, end: Ints) -> Ints:
        """(n,) the line whose index is text[start:end], -1 where there is none."""
        if not len(self.hashes):
            return np.full(len(start), -1, np.int64)
        hashes = _hash(text, start, end, self.salt)
        place = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        line = self.lines[place]
        found = self.hashes[place] == hashes
        found &= _equal(text, start, end, self.keys.text, self.keys.start[line], self.keys.end[line])
        return np.where(found, line, -1)

    def __contains__(self, index: object) -> bool:
        assert isinstance(index, bytes)
        text = padded(np.frombuffer(index, np.uint8))
        return bool(self.find(text, np.zeros(1, np.int64), np.array([len(index)]))[0] >= 0)

    def _ordered(self) -> bool:
        """Sorts the hashes; False if two different indices have the same one."""
        hashes = _hash(self.keys.text, self.keys.start, self.keys.end, self.salt)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        a, b = order[same], order[same + 1]
        keys = self.keys
        if not _equal(keys.text, keys.start[a], keys.end[a], keys.text, keys.start[b], keys.end[b]).all():
            return False
        last = np.ones(len(hashes), np.bool_)
        last[same] = False
        self.hashes, self.lines = hashes[last], order[last]
        return True


def padded(text: Bytes) -> Bytes:
    """A copy that can be read as words, and a word beyond its end."""
    copy = np.zeros(len(text) // 8 * 8 + 16, np.uint8)
    copy[: len(text)] = text
    return copy


def _hash(text: Bytes, start: Ints, end: Ints, salt: int) -> Words:
    hashes = ((end - start).astype(np.uint64) + np.uint64(salt)) * _FACTOR
    at, rows = 0, np.flatnonzero(end > start)
    while len(rows):
        mixed = (hashes[rows] ^ _word(text, start[rows] + at, end[rows])) * _FACTOR
        hashes[rows] = mixed ^ (mixed >> _HALF)
        at += 8
        rows = rows[start[rows] + at < end[rows]]
    return hashes


def _equal(text: Bytes, start: Ints, end: Ints, other: Bytes, other_start: Ints, other_end: Ints) -> Bools:
    equal = end - start == other_end - other_start
    at, rows = 0, np.flatnonzero(equal)
    while len(rows):
        same = _word(text, start[rows] + at, end[rows]) == _word(other, other_start[rows] + at, other_end[rows])
        equal[rows[~same]] = False
        at += 8
        rows = rows[same & (start[rows] + at < end[rows])]
    return equal


def _word(text: Bytes, at: Ints, end: Ints) -> Words:
    """The bytes from `at` to `at + 8`, 0 from `end` on; at least one lies before `end`."""
    beyond = (np.maximum(at + 8 - end, 0) << 3).astype(np.uint64)
    return read_words(text, at) & (np.uint64(2**64 - 1) >> beyond)
