"""table.md: what a table says, for a terminal, a pull request or a README."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seqmtl.tables import words
from seqmtl.tables.content import Part, Row, Table

# A label such as `w/o *AIT*` must not turn into italics, nor `a|b` into two cells, nor `<x>` into nothing.
# Inside a word _ is itself.
SPECIAL = re.compile(r"([\\`*|<>\[\]~$]|^[#+-]|(?<![^\W_])_|_(?![^\W_]))")


def markdown(table: Table) -> str:
    """The whole table: the title, what the paper did, each part with its legend, what made it."""
    lines = [f"# {escaped(table.title)}", ""]
    if table.about:
        lines += [escaped(table.about), ""]
    if words.citation(table):
        lines += [f"Paper: {escaped(words.citation(table))}", ""]
    for part in table.parts:
        lines += _part(table, part)
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    lines += ["## Made by", "", "```", table.command.replace("```", "'''"), "```", ""]
    lines += [f"{table.made}; commit {table.git_commit or 'unknown'}; {escaped(versions)}; {escaped(table.machine)}.", ""]
    lines += ["Values by seed, p values and intervals are in table.csv and table.json, plots and configs in report.html."]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _part(table: Table, part: Part) -> list[str]:
    lines = [f"## {escaped(part.name)}: {escaped(words.data_said(part))}", ""]
    lines += [*_aligned(_head(part), [_row(part, row) for row in part.table_rows] + _oracle(part)), ""]
    said = [words.comparability(table, part), *part.remarks, *words.legend(part)]
    lines += [*(f"- {escaped(text)}" for text in said if text), ""]
    missing = [(row, run) for row in part.table_rows for run in row.missing]
    if missing:
        lines += [f"Without a result, {len(missing)} of {sum(len(row.runs) for row in part.table_rows)} runs:", ""]
        for row, run in missing:
            why = escaped(words.STATES.get(run.state, run.state) + (f": {run.why}" if run.why else ""))
            lines.append(f"- {escaped(row.label)}, seed {run.seed}, {why} ({escaped(run.path)})")
        lines.append("")
    return lines


def _has_runs(part: Part) -> bool:
    return any(row.runs for row in part.table_rows)


def _head(part: Part) -> list[str]:
    head = ["row", *(["seeds"] if _has_runs(part) else [])]
    for column in part.columns:
        head.append(escaped(column.title))
        if words.has_gain(part, column):
            head.append("gain")
        if words.has_published(part, column):
            head.append("published" if part.comparable else "published (not comparable)")
    return head


def _row(part: Part, row: Row) -> list[str]:
    cells = [escaped(row.label), *([escaped(words.seeds_said(row))] if _has_runs(part) else [])]
    for column in part.columns:
        shown = words.shown(part, row, column)
        text = {1: f"**{shown.text}**", 2: f"<u>{shown.text}</u>"}.get(shown.place or 0, shown.text)
        cells.append(" ".join(filter(None, (text, escaped(shown.stars), shown.mark))))
        if words.has_gain(part, column):
            cells.append(shown.gain)
        if words.has_published(part, column):
            cells.append(" ".join(filter(None, (shown.published, escaped(shown.published_stars)))))
    return cells


def _oracle(part: Part) -> list[list[str]]:
    if not part.oracle:
        return []
    cells = [words.ORACLE, *([""] if _has_runs(part) else [])]
    for column in part.columns:
        cells.append(words.oracle_shown(part, column))
        cells += [""] * (words.has_gain(part, column) + words.has_published(part, column))
    return [cells]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns stand below each other in the source, too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    left = 2 if "seeds" in head[:2] else 1

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width if i < left else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    return [line(head), f"| {' | '.join(rule)} |", *map(line, rows)]
