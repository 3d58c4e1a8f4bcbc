"""The points of a figure: what is drawn, and what has to be known of it, as one CSV file.

Unusual: a picture is drawn from the text of its CSV, never from what the text was made of: whoever has the file can draw it. What
has to be known stands in the file's first lines, behind `#`, and below the picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import polars as pl

MARK = "# "
DIGITS = 8


@dataclass(frozen=True)
class Points:
    """The lines of the file, and notes: one sentence each."""

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()

    def to_csv(self) -> str:
        """The text of the file; numbers with 8 decimals."""
        notes = "".join(f"{MARK}{' '.join(note.split())}\n" for note in self.notes)
        return notes + self.frame.write_csv(float_precision=DIGITS)


def points_from_csv(text: str) -> Points:
    """The inverse of `Points.to_csv`, but for what the decimals cut off."""
    lines = text.splitlines(keepends=True)
    notes = tuple(line.removeprefix(MARK).rstrip("\n") for line in lines if line.startswith("#"))
    frame = pl.read_csv(io.StringIO("".join(lines[len(notes) :])), infer_schema_length=None)
    return Points(frame, notes)
