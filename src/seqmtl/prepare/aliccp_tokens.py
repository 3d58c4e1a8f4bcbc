"""Lines of Ali-CCP taken apart: a block of bytes → columns of numbers, without a look at any single line.

    id,click,purchase,index,n,features     a line of a skeleton: 5 commas
    index,n,features                       a line of common features: 2
    features                               field \\x02 id \\x03 value, with \\x01 between them

Unusual: everything is done for all lines of the block at once. The positions of the separators are found by one comparison, the
digits of all ids are read column by column (all last digits, all last but one, …). A line that is not of the exact form is marked
and left out, with no word about why: `aliccp_line.explain` finds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqmtl.prepare.aliccp_bags import Bag
from seqmtl.prepare.aliccp_line import FIELDS, MOST_DIGITS
from seqmtl.prepare.vocabulary import MISSING

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PAD = 16  # bytes or more before and after the text, so that a look a little outside needs no care
LINE_FEED, COMMA, ZERO = 10, 44, 48
_KINDS = np.array([2, 3, 1], np.uint8)  # separators of a feature and of the next one, in this order
_FIELD = np.full(1 << 16, -1, np.int8)  # number of a field, by its name read as a number
_FIELD[[int(name) for name in FIELDS]] = np.arange(len(FIELDS))


@dataclass
class Lines:
    """The lines of a block.

    Attributes:
        text: the block between two pads.
        n: number of lines.
        bad: (n,) lines that are not of the exact form; what the other attributes say of them means nothing.
        start, end: (n,) a line is text[start:end], without its line feed.
        commas: (n, 2 or 5) their positions.
        ids: (F, n) raw ids of the 18 fields, MISSING where there is none.
        bags: those of the multi-valued fields that were asked for.
    """

    text: Bytes
    n: int
    bad: Bools
    start: Ints
    end: Ints
    commas: Ints
    ids: NDArray[np.int32]
    bags: dict[str, Bag]

    def left_out(self) -> list[tuple[int, bytes]]:
        """The bad lines, with their numbers from 0."""
        return [(i, self.text[self.start[i] : self.end[i]].tobytes()) for i in np.flatnonzero(self.bad).tolist()]


def read_lines(block: bytes, n_commas: int, bags: Sequence[str] = ()) -> Lines:
    """Takes apart whole lines; the last one may lack its line feed."""
    size = len(block) + (not block.endswith(b"\n"))
    text = np.zeros(size // 8 * 8 + 8 + 2 * PAD, np.uint8)  # whole words of 8 bytes
    text[PAD : PAD + len(block)] = np.frombuffer(block, np.uint8)
    text[PAD + size - 1] = LINE_FEED
    inside = text[PAD : PAD + size]

    marks = np.flatnonzero(inside <= LINE_FEED) + PAD
    kinds = text[marks]
    ours = (kinds == LINE_FEED) | ((kinds <= 3) & (kinds > 0))
    if not ours.all():
        marks, kinds = marks[ours], kinds[ours]
    feed = np.flatnonzero(kinds == LINE_FEED)
    end = marks[feed]
    n = len(end)
    start = np.concatenate([[PAD], end[:-1] + 1])
    counts = np.diff(feed, prepend=-1)  # separators of each line, the line feed included
    first = marks[feed - counts + 1]  # the first of them

    bad, commas = _commas(np.flatnonzero(inside == COMMA) + PAD, n_commas, start, end, first)
    bad |= ~_ordered(kinds, feed, counts)
    bad |= (counts == 1) & (commas[:, -1] + 1 != end)  # no feature, but some text
    stated, wrong = read_numbers(text, commas[:, -2] + 1, commas[:, -1])
    bad |= wrong | (stated != counts // 3)
    bad |= _not_utf8(block, text, start, end)

    featured = ~bad & (counts > 1)
    if not featured.all():
        marks = marks[np.repeat(featured, counts)]
    line = np.repeat(np.flatnonzero(featured), counts[featured] // 3)
    ids, wrong_line = _ids(text, marks.reshape(-1, 3), line, n)
    bad[wrong_line] = True
    found: dict[str, Bag] = {}
    if bags:
        found, wrong_line = _bags(text, marks.reshape(-1, 3), line, n, bags)
        bad[wrong_line] = True
    return Lines(text, n, bad, start, end, commas, ids, found)


def read_numbers(text: Bytes, start: Ints, end: Ints) -> tuple[Ints, Bools]:
    """(n,) the numbers at text[start:end], and which of them are none: empty, too long, or with something else than digits."""
    length = end - start
    wrong = (length < 1) | (length > MOST_DIGITS)
    value = np.zeros(len(start), np.int64)
    for column in range(min(int(length.max(initial=0)), MOST_DIGITS)):
        digit = text.take(end - (column + 1), mode="clip") - np.uint8(ZERO)  # anything but a digit is above 9
        here = length > column
        wrong |= here & (digit > 9)
        value += (digit * here).astype(np.int64) * 10**column
    return value, wrong


def read_words(text: Bytes, at: Ints) -> NDArray[np.uint64]:
    """(n,) the eight bytes from each of `at` on, the first one lowest; `text` has whole words, and one more after these."""
    words = text.view("<u8")
    place, shift = at >> 3, ((at & 7) << 3).astype(np.uint64)
    return (words.take(place) >> shift) | ((words.take(place + 1) << (np.uint64(63) - shift)) << np.uint64(1))


def _commas(commas: Ints, each: int, start: Ints, end: Ints, first: Ints) -> tuple[Bools, Ints]:
    """Which lines have not `each` commas, all before their first separator; the positions (n, each)."""
    n = len(start)
    if len(commas) == each * n:
        table = commas.reshape(n, each)
        if (table[:, 0] >= start).all() and (table[:, -1] < first).all():
            return np.zeros(n, np.bool_), table
    after = np.searchsorted(commas, end)
    counts = np.diff(after, prepend=0)
    right = np.flatnonzero(counts == each)
    table = np.repeat(start[:, None], each, 1)  # somewhere in the line
    table[right] = commas[(after - counts)[right, None] + np.arange(each)]
    return (counts != each) | (table[:, -1] >= first), table


def _ordered(kinds: Bytes, feed: Ints, counts: Ints) -> Bools:
    """Which lines have the separators 2 3, 1 2 3, 1 2 3, … or none."""
    n = len(feed)
    if len(kinds) % 3 == 0:
        last = kinds[2::3]
        if (kinds[0::3] == 2).all() and (kinds[1::3] == 3).all() and ((last == 1) | (last == LINE_FEED)).all():
            return np.ones(n, np.bool_)
    place = np.arange(len(kinds)) - np.repeat(feed - counts + 1, counts)
    wrong = (kinds != _KINDS[place % 3]) & (kinds != LINE_FEED)
    line = np.repeat(np.arange(n), counts)
    ordered = (counts % 3 == 0) | (counts == 1)
    ordered[line[wrong]] = False
    return ordered


def _ids(text: Bytes, marks: Ints, line: Ints, n: int) -> tuple[NDArray[np.int32], Ints]:
    """(F, n) ids, and the lines in which one is not a number that fits.

    Args:
        marks: (features, 3) positions of \\x02, \\x03 and the end of each feature; `line` (features,) its line.
    """
    name_end = np.ascontiguousarray(marks[:, 0])
    before, *name = (text.take(name_end - back) for back in (4, 3, 2, 1))
    digits = [byte - np.uint8(ZERO) for byte in name]
    number = digits[0].astype(np.uint16) * np.uint16(100) + digits[1].astype(np.uint16) * np.uint16(10) + digits[2]
    field = _FIELD.take(number)
    is_name = ((before == 1) | (before == COMMA)) & (np.maximum(np.maximum(digits[0], digits[1]), digits[2]) <= 9)
    known = np.flatnonzero(is_name & (field >= 0))

    value, wrong = read_numbers(text, name_end[known] + 1, marks[:, 1].take(known))
    wrong |= value >= MISSING
    line = line.take(known)
    cell = field.take(known).astype(np.int64) * n + line
    last = np.full(len(FIELDS) * n, -1, np.int64)
    np.maximum.at(last, cell, np.arange(len(known)))  # of a field that repeats, the last one
    told = np.append(value, MISSING).astype(np.int32)
    return told.take(last, mode="wrap").reshape(len(FIELDS), n), line[wrong]


def _bags(text: Bytes, marks: Ints, line: Ints, n: int, names: Sequence[str]) -> tuple[dict[str, Bag], Ints]:
    """All ids of some multi-valued fields, in the order of the text, and the lines in which one is not a number that fits.

    Args:
        marks, line: as for `_ids`.
    """
    name_end = np.ascontiguousarray(marks[:, 0])
    word = read_words(text, name_end - 8)  # the longest name has six letters; what separates it from the feature before, one
    found, wrong_lines = {}, [np.zeros(0, np.int64)]
    for name in names:
        tail = word >> np.uint64(8 * (7 - len(name)))
        after_feature, after_comma = (np.uint64(int.from_bytes(before + name.encode(), "little")) for before in (b"\x01", b","))
        known = np.flatnonzero((tail == after_feature) | (tail == after_comma))
        value, wrong = read_numbers(text, name_end[known] + 1, marks[known, 1])
        wrong |= value >= MISSING
        wrong_lines.append(line[known[wrong]])
        found[name] = Bag(np.bincount(line[known], minlength=n), value.astype(np.int32))
    return found, np.concatenate(wrong_lines)


def _not_utf8(block: bytes, text: Bytes, start: Ints, end: Ints) -> Bools:
    """Which lines are not UTF-8; only lines with bytes above 127 in a block that is not are looked at."""
    bad = np.zeros(len(start), np.bool_)
    try:
        if not block.isascii():
            block.decode()
        return bad
    except UnicodeDecodeError:
        pass
    for i in np.unique(np.searchsorted(end, np.flatnonzero(text > 127))).tolist():
        try:
            text[start[i] : end[i]].tobytes().decode()
        except UnicodeDecodeError:
            bad[i] = True
    return bad
