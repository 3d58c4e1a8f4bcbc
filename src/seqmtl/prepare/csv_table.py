"""A CSV file with a header as a table of strings, each line checked first: file and line are named, or the line is left out.

Unusual: a line break inside quotes is not supported (KuaiRand has none); such a line counts as bad.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.raw import BadLines, RawFile, shown

if TYPE_CHECKING:
    import polars as pl


@dataclass
class Table:
    """`frame`: the columns asked for as strings (null where empty) and `line`, counted from 1; `lines`: data lines in the file."""

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

    raw = RawFile(path)
    lines = [line.removesuffix(b"\r") for _, block in raw.blocks() for line in block]
    names = lines[0].removeprefix(b"\xef\xbb\xbf").decode(errors="replace").split(",")
    missing = [name for name in (*required, *optional) if name not in names]
    if missing:
        raise SeqmtlError(f"{path}, line 1: no column {', '.join(missing)}; the header has {', '.join(names)}")
    good = [i for i in range(1, len(lines)) if _well_formed(raw, lines[i], i + 1, len(names), bad)]
    text = b"\n".join([",".join(names).encode(), *(lines[i] for i in good)])
    wanted = [*required, *optional]
    frame = pl.read_csv(io.BytesIO(text), columns=wanted, infer_schema=False).select(wanted)
    frame = frame.with_columns(pl.Series("line", [i + 1 for i in good], pl.Int64))
    prefix = "" if unique is None else f"{path.stem}: "
    for name, pattern in {**required, **optional}.items():
        frame = _matching(path, frame, name, pattern, name in required, prefix, bad)
    if unique is not None:
        twice = frame.filter(~pl.col(unique).is_first_distinct())
        for line, value in twice.select("line", unique).iter_rows():
            bad.line(path, line, f"{prefix}twice", f"{unique} {value} stands a second time")
        frame = frame.filter(pl.col(unique).is_first_distinct())
    return Table(frame, len(lines) - 1, raw.source)


def _well_formed(raw: RawFile, line: bytes, number: int, n_columns: int, bad: BadLines) -> bool:
    try:
        text = line.decode()
    except UnicodeDecodeError as e:
        bad.line(raw.path, number, "utf8", f"byte {e.start + 1} (0x{line[e.start]:02x}) is not UTF-8")
        return False
    found = len(next(csv.reader([text], strict=False), [])) if '"' in text else text.count(",") + 1
    if found == n_columns and text.count('"') % 2 == 0:
        return True
    if number == raw.last_line:
        words = f"the file ends in the middle of this line ({shown(line[-40:])}): it was not copied or downloaded whole"
        bad.line(raw.path, number, "truncated", words)
    else:
        bad.line(raw.path, number, "fields", f"{found} comma-separated fields instead of {n_columns} ({shown(line)})")
    return False


def _matching(path: Path, frame: pl.DataFrame, name: str, pattern: str, required: bool, prefix: str, bad: BadLines) -> pl.DataFrame:
    import polars as pl

    right = pl.col(name).str.contains(pattern).fill_null(not required)
    for line, value in frame.filter(~right).select("line", name).iter_rows():
        kind = "label" if pattern == "^[01]$" else name
        what = "is empty" if value is None else f"is {value!r}"
        must = (
            "it must be 0 or 1" if kind == "label" else "it must be a number" if "-[0-9]{2}" not in pattern else "it must be a date"
        )
        bad.line(path, line, f"{prefix}{kind}", f"column {name} {what}, {must}")
    return frame.filter(right)
