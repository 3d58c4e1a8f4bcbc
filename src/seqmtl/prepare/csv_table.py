"""A CSV file with a header, block by block, as strings; a line is checked first: file and line are named, or the line is left out.

Unusual: what is a line and how many fields it has is found for a whole block at once, before Polars reads it, because Polars fills
a short line with nulls and does not say which line is too long. A line break inside quotes is not supported (KuaiRand and Tenrec
have none); such a line counts as bad.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.raw import BadLines, RawFile, shown

if TYPE_CHECKING:
    import polars as pl

BLOCK = 8 << 20  # bytes
LINE_FEED, COMMA, QUOTE = b'\n,"'
NOT_INSIDE = np.isin(np.arange(256), list(b'\r\n,"'))  # what may stand on the outer side of a quote

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass
class Block:
    """Some lines: `frame` has the columns asked for as strings (null where empty) and `line`, counted from 1, of the good ones.

    `first`: number of the first line of data, from 0; `lines`: how many there are, the bad ones too; `share` of the file so far.
    """

    frame: pl.DataFrame
    first: int
    lines: int
    share: float


@dataclass
class Table:
    """`frame`: as that of a block; `lines`: data lines in the file."""

    frame: pl.DataFrame
    lines: int
    source: dict[str, Any]


def read_table(
    path: Path, required: Mapping[str, str], optional: Mapping[str, str], bad: BadLines, unique: str | None = None
) -> Table:
    """Reads some columns.

    Args:
        required: pattern of each column that every line must fill; `optional`: may be empty ("" takes any text).
        unique: a column of which no value may stand twice.

    Raises:
        SeqmtlError: a column is missing, or a line is bad and `bad` does not skip.
    """
    import polars as pl

    file = CsvFile(path)
    prefix = "" if unique is None else f"{path.stem}: "
    frames, lines = [], 0
    for block in file.frames([*required, *optional], bad):
        frame = block.frame
        for name, pattern in {**required, **optional}.items():
            frame = _matching(path, frame, name, pattern, name in required, prefix, bad)
        frames.append(frame)
        lines = block.first + block.lines
    frame = pl.concat(frames)
    if unique is not None:
        twice = frame.filter(~pl.col(unique).is_first_distinct())
        words = "{} {} stands a second time"
        leave_out(bad, path, twice["line"], f"{prefix}twice", lambda i: words.format(unique, twice[unique][i]))
        frame = frame.filter(pl.col(unique).is_first_distinct())
    return Table(frame, lines, file.source)


def leave_out(bad: BadLines, path: Path, lines: Ints | pl.Series, reason: str, words: Callable[[int], str]) -> None:
    """Says what is wrong with the first of some lines, or counts them all."""
    if len(lines):
        bad.line(path, int(lines[0]), reason, words(0))
        bad.counts[reason] += len(lines) - 1


class CsvFile(RawFile):
    """A CSV file, read once.

    Raises:
        SeqmtlError: it is empty or cannot be read.
    """

    def frames(self, columns: Sequence[str], bad: BadLines) -> Iterator[Block]:
        """The good lines.

        Args:
            columns: those that are wanted.

        Raises:
            SeqmtlError: a column is missing, or a line is bad and `bad` does not skip.
        """
        import polars as pl

        with self._readable(), self.path.open("rb") as f:
            header = self._took(f.readline())
            first_line = header.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
            try:
                names = next(csv.reader([first_line], strict=False), [])
            except csv.Error as e:
                raise SeqmtlError(f"{self.path}, line 1: the header cannot be read ({e})") from None
            missing = [name for name in columns if name not in names]
            if missing:
                raise SeqmtlError(f"{self.path}, line 1: no column {', '.join(missing)}; the header has {', '.join(names)}")
            twice = [name for name in columns if names.count(name) > 1]
            if twice:
                raise SeqmtlError(f"{self.path}, line 1: column {twice[0]} stands there twice; rename or remove one of the two")
            wanted = {str(names.index(name)): name for name in columns}
            numbers = ",".join(map(str, range(len(names)))).encode() + b"\n"  # as a header: names may be quoted or stand twice
            schema = dict.fromkeys((*columns, "line"), pl.String) | {"line": pl.Int64}
            first = 0
            while block := f.read(BLOCK):
                block = self._took(block + f.readline())
                text, lines, good = self._good(block, first + 2, len(names), bad)
                frame = pl.DataFrame(schema=schema)
                if len(good):
                    read = pl.read_csv(io.BytesIO(numbers + text), infer_schema=False, columns=list(wanted)).rename(wanted)
                    if len(read) != len(good):  # this would shift rows: better no dataset than a wrong one
                        raise SeqmtlError(f"{self.path}: of the {lines} lines from line {first + 2} on, {len(read)} could be read")
                    frame = read.with_columns(line=pl.Series(good + (first + 2))).select(schema.keys())
                yield Block(frame, first, lines, self.bytes / self.total)
                first += lines
            if not first:
                yield Block(pl.DataFrame(schema=schema), 0, 0, 1.0)

    def sample(self) -> list[bytes]:
        """Some whole lines from all over the file, the header not among them."""
        lines = []
        with self._readable(), self.path.open("rb") as f:
            for place in range(0, self.total, max(1, self.total // 64)):
                f.seek(place)
                f.readline(1 << 16)  # the line in the middle of which it begins
                lines += f.read(1 << 12).split(b"\n")[:-1]
        return lines

    def rows(self) -> int:
        """About how many lines there are."""
        lines = self.sample()
        return max(1, self.total * len(lines) // max(1, sum(len(line) + 1 for line in lines)))

    def _took(self, block: bytes) -> bytes:
        self._digest.update(block)
        self.bytes += len(block)
        return block

    def _good(self, block: bytes, number: int, n_columns: int, bad: BadLines) -> tuple[bytes, int, Ints]:
        """The good lines as text, the number of all lines, and the places of the good ones.

        Args:
            number: of the first line, from 1.
        """
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").removesuffix(b"\r")
        text = np.frombuffer(block, np.uint8)
        end = np.flatnonzero(text == LINE_FEED)
        whole = block.endswith(b"\n")
        if not whole:
            end = np.append(end, len(text))
        start = np.concatenate([[0], end[:-1] + 1])
        counts, odd = _fields(text, start, end, b'"' in block)
        reasons = {"utf8": _not_utf8(block, start, end)}
        wrong = odd | (counts != n_columns)
        reasons["truncated"] = wrong & (np.arange(len(end)) == len(end) - 1) if not whole else np.zeros(len(end), np.bool_)
        reasons["fields"] = wrong
        right = np.ones(len(end), np.bool_)
        for reason, which in reasons.items():
            lines = np.flatnonzero(which & right)
            right[lines] = False
            leave_out(bad, self.path, lines + number, reason, self._words(reason, lines, block, start, end, n_columns))
        if right.all():
            return block, len(end), np.arange(len(end))
        if not whole:
            block += b"\n"
        lengths = end + 1 - start
        return np.frombuffer(block, np.uint8)[np.repeat(right, lengths)].tobytes(), len(end), np.flatnonzero(right)

    def _words(self, reason: str, lines: Ints, block: bytes, start: Ints, end: Ints, n_columns: int) -> Callable[[int], str]:
        def words(i: int) -> str:
            line = block[start[lines[i]] : end[lines[i]]]
            if reason == "utf8":
                try:
                    line.decode()
                except UnicodeDecodeError as e:
                    return f"byte {e.start + 1} (0x{line[e.start]:02x}) is not UTF-8"
            if reason == "truncated":
                return f"the file ends in the middle of this line ({shown(line[-40:])}): it was not copied or downloaded whole"
            found = len(next(csv.reader([line.decode(errors="replace")], strict=False), [""]))
            if found == n_columns:
                return f"its quotes do not match ({shown(line)})"
            return f"{found} comma-separated fields instead of {n_columns} ({shown(line)})"

        return words


def _fields(text: NDArray[np.uint8], start: Ints, end: Ints, quoted: bool) -> tuple[Ints, Bools]:
    """(lines,) fields of each line, and which lines have a quote that neither opens, closes nor stands doubled inside a field."""
    commas = np.flatnonzero(text == COMMA)
    odd = np.zeros(len(start), np.bool_)
    if quoted:
        quotes = np.flatnonzero(text == QUOTE)
        before = np.searchsorted(quotes, start)
        commas = commas[(np.searchsorted(quotes, commas) - before[np.searchsorted(start, commas, "right") - 1]) % 2 == 0]
        line = np.searchsorted(start, quotes, "right") - 1
        closes = (np.arange(len(quotes)) - before[line]) % 2 == 1
        padded = np.concatenate([[LINE_FEED], text, [LINE_FEED]])
        fits = NOT_INSIDE[padded[quotes + np.where(closes, 2, 0)]]
        odd = np.diff(before, append=len(quotes)) % 2 == 1
        odd[line[~fits]] = True
    return np.diff(np.searchsorted(commas, end), prepend=0) + 1, odd


def _not_utf8(block: bytes, start: Ints, end: Ints) -> Bools:
    """(lines,); only lines with bytes above 127 in a block that is not UTF-8 are looked at."""
    wrong = np.zeros(len(start), np.bool_)
    try:
        block.decode() if not block.isascii() else None
    except UnicodeDecodeError:
        high = np.flatnonzero(np.frombuffer(block, np.uint8) > 127)
        for i in np.unique(np.searchsorted(end, high)).tolist():
            try:
                block[start[i] : end[i]].decode()
            except UnicodeDecodeError:
                wrong[i] = True
    return wrong


def _matching(path: Path, frame: pl.DataFrame, name: str, pattern: str, required: bool, prefix: str, bad: BadLines) -> pl.DataFrame:
    import polars as pl

    right = pl.col(name).str.contains(pattern).fill_null(not required)
    wrong = frame.filter(~right)
    kind = "label" if pattern == "^[01]$" else name

    def words(i: int) -> str:
        value = wrong[name][i]
        what = "is empty" if value is None else f"is {value!r}"
        must = (
            "it must be 0 or 1" if kind == "label" else "it must be a number" if "-[0-9]{2}" not in pattern else "it must be a date"
        )
        return f"column {name} {what}, {must}"

    leave_out(bad, path, wrong["line"], f"{prefix}{kind}", words)
    return frame.filter(right)
