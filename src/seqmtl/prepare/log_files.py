"""A log of impressions: `log-*.parquet`, or `log-*.csv` with a header, sorted by name, one row per impression in the order of time.

Unusual: it is read in pieces and never whole; a bad row has its number too, so that `_row` is always the place in the files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.csv_table import CsvFile, leave_out
from seqmtl.prepare.past import Ints
from seqmtl.prepare.raw import BadLines

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.parquet as pq

ROWS = 1 << 18  # of a Parquet file that are read at once


@dataclass
class Part:
    """Some rows.

    Attributes:
        frame: the good ones: columns as whole numbers or strings, labels as 0 and 1.
        first: number of the first raw row, over all files; `rows`: raw rows, the bad ones too.
        at: (n,) the places of the good ones among them.
        what: name of the file; `share` of the log so far.
    """

    frame: pl.DataFrame
    first: int
    rows: int
    at: Ints
    what: str
    share: float


class Log:
    """The files of a log.

    Raises:
        SeqmtlError: there are none, or of both kinds.
    """

    def __init__(self, raw_dir: Path) -> None:
        found = {kind: sorted(raw_dir.glob(f"log-*.{kind}")) for kind in ("parquet", "csv")}
        if all(found.values()):
            raise SeqmtlError(f"{raw_dir} holds log-*.parquet and log-*.csv; leave the files of one kind there")
        self.kind, self.paths = next(((kind, paths) for kind, paths in found.items() if paths), ("", []))
        if not self.paths:
            raise SeqmtlError(
                f"there is no log in {raw_dir}: log-*.parquet or log-*.csv, sorted by name, one row per impression in the order of"
                " time. Put them there, or give raw_dir=<where they are>"
            )
        natural = sorted(self.paths, key=lambda path: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", path.name)])
        for text, number in zip(self.paths, natural, strict=True):
            if text != number:
                raise SeqmtlError(
                    f"{raw_dir}: sorted by name, {text.name} would be read before {number.name}, whose number is smaller, and the"
                    " order of the files is that of time; write the numbers with leading zeros (log-00009, log-00010)"
                )
        self.bytes = sum(path.stat().st_size for path in self.paths)
        self.expected = sum(_parquet(p).metadata.num_rows if self.kind == "parquet" else CsvFile(p).rows() for p in self.paths)

    def parts(self, columns: Sequence[str], labels: Sequence[str], bad: BadLines, sources: dict[str, Any]) -> Iterator[Part]:
        """All rows.

        Raises:
            SeqmtlError: a file cannot be read, a column is missing or of a wrong type, or a row is bad and `bad` does not skip.
        """
        first, kinds = 0, dict[str, Any]()
        read = _parquet_parts if self.kind == "parquet" else _csv_parts
        for path in self.paths:
            rows = 0
            for part in read(path, [*dict.fromkeys((*columns, *labels))], labels, bad, sources):
                _check_kinds(path, kinds, part.frame)
                rows = part.first + part.rows
                part.first += first
                part.share = (first + rows) / max(self.expected, first + rows)
                yield part
            first += rows


def _csv_parts(path: Path, columns: list[str], labels: Sequence[str], bad: BadLines, sources: dict[str, Any]) -> Iterator[Part]:
    import polars as pl

    file = CsvFile(path)
    for block in file.frames(columns, bad):
        frame = block.frame
        for label in labels:
            right = pl.col(label).str.contains("^[01]$").fill_null(False)
            wrong = frame.filter(~right)
            leave_out(bad, path, wrong["line"], "label", lambda i, w=wrong[label]: _words(w, i))  # type: ignore[misc]
            frame = frame.filter(right)
        at = frame["line"].to_numpy() - 2 - block.first
        yield Part(frame.drop("line").with_columns(pl.col(*labels).cast(pl.Int8)), block.first, block.lines, at, path.name, 0.0)
    sources[path.name] = file.source


def _parquet(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as e:
        raise SeqmtlError(f"{path} is no whole Parquet file ({e}); it was not written, copied or downloaded whole") from e


def _parquet_parts(path: Path, columns: list[str], labels: Sequence[str], bad: BadLines, sources: dict[str, Any]) -> Iterator[Part]:
    import polars as pl
    import pyarrow as pa

    file = _parquet(path)
    _check_columns(path, file.schema_arrow, columns, labels)
    first, whole = 0, pl.selectors.integer() | pl.selectors.boolean()
    try:
        for batch in file.iter_batches(ROWS, columns=columns):
            frame = pl.DataFrame(pl.from_arrow(batch)).with_columns(at=pl.int_range(len(batch), dtype=pl.Int64))
            frame = frame.with_columns(whole.cast(pl.Int64), pl.selectors.categorical().cast(pl.String))
            for label in labels:
                right = pl.col(label).is_in([0, 1]).fill_null(False)
                wrong = frame.filter(~right)
                if len(wrong):
                    _leave_out(bad, path, first + wrong["at"][0], len(wrong), _words(wrong[label], 0))
                frame = frame.filter(right)
            at = frame["at"].to_numpy()
            yield Part(frame.drop("at").with_columns(pl.col(*labels).cast(pl.Int8)), first, len(batch), at, path.name, 0.0)
            first += len(batch)
    except (OSError, ValueError, pa.ArrowException, pl.exceptions.PolarsError) as e:
        raise SeqmtlError(f"{path} cannot be read ({e}) after row {first}; write or download it again") from e
    with path.open("rb") as f:
        sources[path.name] = {"sha256": hashlib.file_digest(f, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _check_columns(path: Path, schema: Any, columns: list[str], labels: Sequence[str]) -> None:
    from pyarrow import types

    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise SeqmtlError(f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    for name in columns:
        kind = schema.field(name).type
        if types.is_dictionary(kind) and name not in labels:
            kind = kind.value_type
        number = types.is_integer(kind) or types.is_boolean(kind)
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not (number or (text and name not in labels)):
            must = "a label must be 0 or 1, as whole numbers" if name in labels else "a field must hold whole numbers or strings"
            raise SeqmtlError(f"{path}: column {name} holds {kind}; {must}")


def _check_kinds(path: Path, kinds: dict[str, Any], frame: pl.DataFrame) -> None:
    """Refuses a column that holds numbers in one file and strings in another."""
    import polars as pl

    for name, kind in frame.schema.items():
        if kinds.setdefault(name, kind) != kind:
            now, before = ("strings" if k == pl.String else "whole numbers" for k in (kind, kinds[name]))
            raise SeqmtlError(f"{path}: column {name} holds {now}, but {before} in the files before it; write all files alike")


def _words(values: pl.Series, i: int) -> str:
    what = "is empty" if values[i] is None else f"is {values[i]!r}"
    return f"column {values.name} {what}, it must be 0 or 1"


def _leave_out(bad: BadLines, path: Path, row: int, n: int, words: str) -> None:
    if not bad.skip:
        raise SeqmtlError(
            f"{path}, row {row} (counted from 0): {words}. Mend the file, or leave out such rows, counted by reason, with"
            " dataset.prepare.on_bad_line=skip"
        )
    bad.counts["label"] += n
