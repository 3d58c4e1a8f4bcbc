"""A table's folder: table.md, table.csv, table.json, table.tex and report.html, whole or as they were.

Unusual: another table of the same name (other data, other options) does not replace the one that is there, whose files move to
`earlier-<n>/` first.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from seqmtl.disk import disk_errors, one_at_a_time, write_file
from seqmtl.tables.content import Table

FILES = ("table.md", "table.csv", "table.tex", "report.html", "table.json")


def write(table: Table, folder: Path) -> list[Path]:
    """The five files in `folder`, which is made; what lies there of another table moves to earlier-<n>/.

    Returns:
        their paths.

    Raises:
        SeqmtlError: the disk refuses.
    """
    from seqmtl.tables.csv_file import csv_text
    from seqmtl.tables.html import html
    from seqmtl.tables.latex import latex
    from seqmtl.tables.markdown import markdown

    made = {
        "table.md": markdown(table),
        "table.csv": csv_text(table),
        "table.tex": latex(table),
        "report.html": html(table),
        "table.json": json_text(table),
    }
    with one_at_a_time(folder / ".lock"):
        _move_earlier(table, folder)
        for name in FILES:
            write_file(folder / name, made[name].encode())
    return [folder / name for name in FILES]


def json_text(table: Table) -> str:
    """All of it. What is no finite number (a loss that diverged) becomes null: JSON has no NaN."""
    return json.dumps(_finite(table.to_json()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def _move_earlier(table: Table, folder: Path) -> None:
    there = [folder / name for name in FILES if (folder / name).exists()]
    if not there or identity(json.loads(json_text(table))) == _identity_of(folder / "table.json"):
        return
    earlier = _earlier(folder, there)
    with disk_errors(earlier):
        earlier.mkdir(exist_ok=True)
        # table.json goes last: were this process killed in between, the next one would see again that this is another table.
        for path in there:
            path.rename(earlier / path.name)


def identity(content: Any) -> Any:
    """What makes two contents of table.json the same table: its name, the data of its parts, the configs of its rows."""
    return content["name"], [
        (part["name"], part["dataset"], part["data_version"], [(row["label"], row["config_hash"]) for row in part["table_rows"]])
        for part in content["parts"]
    ]


def _identity_of(path: Path) -> Any:
    """None where the file is missing or damaged: no table is the same as that."""
    try:
        return identity(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _earlier(folder: Path, files: list[Path]) -> Path:
    """The next free one, or the last one where a move was cut off: then none of these files is in it."""
    numbers = [path.name.removeprefix("earlier-") for path in folder.glob("earlier-*")]
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    half = last and not any((folder / f"earlier-{last}" / path.name).exists() for path in files)
    return folder / f"earlier-{last if half else last + 1}"
