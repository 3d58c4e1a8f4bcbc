"""What every form of a table says in words: the cells as text, what is missing and why, the legend, what can be compared.

Plain text: markdown.py, latex.py and html.py escape it and set it in bold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from seqmtl.tables import formats
from seqmtl.tables.content import LEVEL, Cell, Column, Comparison, Part, Row, Table
from seqmtl.tables.papers import PAPERS

BELOW = "†"
ORACLE = "oracle"
FEW = "fewer than three seeds finished, too few for a test over seeds"
MEASURED = {
    "replay": "Gain in percent of the first model over the second, by the mean of their seeds, with its 95 % interval (paired"
    " bootstrap over users); seen: of the conversions that happened, else of those that the true probabilities expect."
    " It is no A/B test: docs/tables.md says what it is.",
    "category_in_histories": "How often the category of the row's item stands in the history, in the mean over the rows where the"
    " task is positive.",
}
STATES = {"new": "not run", "interrupted": "cut off", "running": "still running"}


@dataclass(frozen=True)
class Shown:
    """A cell as text: mean ± std, stars, mark of a row below the best, place; gain; published with its own stars."""

    text: str
    stars: str = ""
    mark: str = ""
    place: int | None = None
    gain: str = formats.ABSENT
    published: str = formats.ABSENT
    published_stars: str = ""


def shown(part: Part, row: Row, column: Column) -> Shown:
    """The cell of a row in a column."""
    cell, places = row.cells.get(column.key), formats.decimals(part, column)
    if cell is None:
        return Shown(formats.ABSENT)
    text = formats.mean_std(cell, places)
    if part.measure == "replay" and cell.rows_test is not None and cell.mean is not None:
        text = f"{cell.mean:+.{places or 2}f} {formats.interval(cell.rows_test.interval, places)}"
    return Shown(
        text=formats.ABSENT if text == formats.NONE and not row.runs else text,
        stars=formats.stars(cell, column),
        mark=BELOW if formats.below(cell, column) else "",
        place=cell.place,
        gain=formats.ABSENT if row.label == part.gain_over else formats.gain(cell.gain, part.gain_kind, places),
        published=formats.published(cell.published, places),
        published_stars="" if cell.published is None else cell.published.stars,
    )


def oracle_shown(part: Part, column: Column) -> str:
    """The oracle's cell."""
    return formats.number(part.oracle[column.key], formats.decimals(part, column)) if column.key in part.oracle else formats.ABSENT


def has_gain(part: Part, column: Column) -> bool:
    """Whether any row has a gain in that column."""
    return any(row.cells[column.key].gain is not None for row in part.table_rows if column.key in row.cells)


def has_published(part: Part, column: Column) -> bool:
    """Whether the paper prints any value of that column."""
    return any(row.cells[column.key].published is not None for row in part.table_rows if column.key in row.cells)


def seeds_said(row: Row, most: int = 70) -> str:
    """`5`; `2 of 5 seeds; seed 3 failed: why`; `no seed finished; …`; nothing where the row is no run.

    Args:
        most: characters of each reason.
    """
    if not row.runs:
        return ""
    if not row.missing:
        return str(len({run.seed for run in row.runs}))  # a pair of models has the seeds of both
    done = len(row.runs) - len(row.missing)
    return "; ".join([f"{done} of {len(row.runs)} seeds" if done else "no seed finished", *_reasons(row, most)])


def _reasons(row: Row, most: int) -> list[str]:
    alike: dict[str, list[int]] = {}
    for run in row.missing:
        why = formats.shortened(run.why, most)
        alike.setdefault(STATES.get(run.state, run.state) + (f": {why}" if why else ""), []).append(run.seed)
    return [f"{'seed' if len(seeds) == 1 else 'seeds'} {formats.listed(map(str, seeds))} {why}" for why, seeds in alike.items()]


def citation(table: Table) -> str:
    """Authors, title, venue, and the number of the table there; empty where the table is of no paper."""
    return ", ".join(filter(None, (PAPERS.get(table.paper, table.paper), table.where)))


def data_said(part: Part) -> str:
    """Which data, how many rows, how many of them positive."""
    kind = "simulated" if part.simulated else "real"
    rows = ", ".join(f"{split} {formats.count(rows)}" for split, rows in part.rows.items())
    positives = part.positives.get("test", {})
    tests = ", ".join(f"{task} {formats.count(k)} ({formats.share(k, part.rows.get('test', 0))})" for task, k in positives.items())
    return "; ".join(
        filter(
            None,
            (
                f"{part.dataset} ({kind} data, checksum {part.data_version or 'unknown'})",
                f"rows: {rows}" if rows else "",
                f"positives in test: {tests}" if tests else "",
            ),
        )
    )


def comparability(table: Table, part: Part) -> str:
    """Whether the published values and ours can be compared; empty where nothing is published."""
    if not any(has_published(part, column) for column in part.columns):
        return ""
    source = citation(table) or "another source"
    if part.comparable:
        return f"Published values: {source}; the same data and protocol, so they can be compared with ours."
    said = f"Published values: {source}; other data or another protocol, so they stand here for orientation and cannot"
    return f"{said} be compared with ours."


def legend(part: Part) -> list[str]:
    """What the marks of a part mean, and why some are not there; only those that it has."""
    cells = [(row, column, shown(part, row, column)) for row in part.table_rows for column in part.columns]
    if part.measure:
        return [MEASURED[part.measure]]
    said = []
    if any(row.runs for row in part.table_rows):
        said.append("Mean ± standard deviation over the seeds, on the test rows.")
    if any(view.place for _, _, view in cells):
        said.append("Bold: the best of the column; underlined: the second.")
    if any(has_gain(part, column) for column in part.columns):
        kind = "in percent of its mean" if part.gain_kind == "relative" else "as a difference of means"
        said.append(f"Gain: over {part.gain_over}, {kind}.")
    said += _stars_said(part)
    said += _below_said(part)
    texts = {view.text for _, _, view in cells} | {oracle_shown(part, column) for column in part.columns if part.oracle}
    if formats.NONE in texts:
        said.append(f"{formats.NONE}: no seed finished.")
    if formats.ABSENT in texts:
        said.append(f"{formats.ABSENT}: the row has no such column.")
    if formats.UNDEFINED in texts:
        said.append("undefined: the metric has no value, as AUC where a split has one class only.")
    if part.oracle:
        said.append("oracle: the true probabilities of the simulator; no model can do better but by chance.")
    return said


def _stars_said(part: Part) -> list[str]:
    tests = _tests(part, "seeds_test")
    starred = [test for _, column, cell, test in tests if formats.stars(cell, column)]
    possible = [test for _, _, cell, test in tests if test.p is not None and formats.finished(cell) >= formats.FEWEST_SEEDS]
    said = []
    if possible:
        against = _against(part, [(column, test) for _, column, _, test in tests if test in possible], 1)
        holm = ", after Holm's correction over the comparisons of a column" if any(t.adjusted is not None for t in possible) else ""
        none = "" if starred else " No row has any."
        said.append(f"*: p < 0.05, **: p < 0.01, the row is better than {against}; {_methods(possible)}{holm}.{none}")
    why: dict[str, list[str]] = {}
    for row, _, cell, test in tests:
        few = formats.finished(cell) < formats.FEWEST_SEEDS
        if test.p is None or few:
            reason = FEW if few else test.note or "no p value"
            why.setdefault(reason, []).append(row.label)
    for reason, labels in why.items():
        rows = list(dict.fromkeys(labels))
        everyone = not possible and len(why) == 1
        said.append(f"No stars{'' if everyone else f' for {formats.listed(rows)}'}: {reason}.")
    if not tests and any(row.runs for row in part.table_rows):
        most = max((formats.finished(cell) for row in part.table_rows for cell in row.cells.values()), default=0)
        if most < formats.FEWEST_SEEDS:
            said.append(f"No stars: {FEW}.")
    return said


def _below_said(part: Part) -> list[str]:
    tests = [(row, column, cell, test) for row, column, cell, test in _tests(part, "rows_test") if test.p is not None]
    if not tests:
        notes = dict.fromkeys(test.note for *_, test in _tests(part, "rows_test") if test.note)
        return [f"No {BELOW}: {note}." for note in notes]
    against = _against(part, [(column, test) for _, column, _, test in tests], -1)
    holm = " after Holm's correction over the comparisons of a column" if any(t.adjusted is not None for *_, t in tests) else ""
    none = "" if any(formats.below(cell, column) for _, column, cell, _ in tests) else " No row is."
    methods = _methods([test for *_, test in tests])
    return [f"{BELOW}: below {against}, p < {LEVEL}{holm}; {methods}.{none}"]


def _against(part: Part, tests: Sequence[tuple[Column, Comparison]], sign: int) -> str:
    """`the best of the column`, `PLE`, or `the row that it is compared with (click AUC: OMoE; purchase AUC: PLE)`.

    Args:
        sign: of the comparisons that matter, +1 those of better rows, -1 those of worse ones; all where there are none.
    """
    tests = [(column, test) for column, test in tests if (test.difference or 0) * column.better * sign > 0] or tests
    best = {(column, row.label) for column in part.columns for row in part.table_rows if _place(row, column) == 1}
    if sign < 0 and all((column, test.against) in best for column, test in tests):
        return "the best of the column"
    found = {column.title: dict.fromkeys(test.against for other, test in tests if other == column) for column in part.columns}
    words = [f"{title}: {formats.listed(labels)}" for title, labels in found.items() if labels]
    alone = {label for labels in found.values() for label in labels}
    return alone.pop() if len(alone) == 1 else f"the row that it is compared with ({'; '.join(words)})"


def _place(row: Row, column: Column) -> int | None:
    return row.cells[column.key].place if column.key in row.cells else None


def _methods(tests: Iterable[Comparison]) -> str:
    return "; ".join(dict.fromkeys(test.method for test in tests))


def _tests(part: Part, name: str) -> list[tuple[Row, Column, Cell, Comparison]]:
    found = []
    for column in part.columns:
        for row in part.table_rows:
            cell = row.cells.get(column.key)
            test = None if cell is None else getattr(cell, name)
            if cell is not None and test is not None:
                found.append((row, column, cell, test))
    return found
