"""Average ranks of the rows of a part over its seeds and columns, and what they can say (Demšar, JMLR 2006)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqmtl.tables import formats
from seqmtl.tables.content import Column, Part, Row

FEWEST_SYSTEMS, FEWEST_SEEDS = 3, 2
WORDS = {"auc": "AUC", "logloss": "LogLoss"}
CAUTION = (
    "The test takes the blocks, a seed in a column each, as independent. Seeds share the data and columns share the runs, so it is"
    " too sure of itself: read it as an order, and the tests of the table for differences."
)


@dataclass(frozen=True)
class Ranking:
    """Ranks by one metric, 1 is the best; Nemenyi's critical difference at 0.05; p of Friedman's test (Iman and Davenport's F)."""

    metric: str
    labels: tuple[str, ...]
    ranks: np.ndarray
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    difference: float
    p: float
    left_out: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """What is to be seen, and what it can and cannot say."""
        seeds, columns, systems = len(self.seeds), len(self.columns), len(self.labels)
        each = f"{seeds} seeds × {columns} {'column' if columns == 1 else 'columns'}"
        said = [
            f"Blocks: {each} ({', '.join(self.columns)}). Rows whose bars do not overlap differ by more than Nemenyi's critical"
            f" difference of {self.difference:.2f} ranks at 0.05; those that reach into the shaded band cannot be told from"
            " the best.",
            f"Friedman's test (Iman and Davenport's F) of no difference at all: p {_equals(self.p)}.",
        ]
        if self.difference >= systems - 1:
            said.append(f"With {seeds * columns} blocks and {systems} rows no difference could be found, however large it is.")
        else:
            said.append(
                f"With {seeds * columns} blocks smaller differences stay unseen: bars that overlap do not show that rows are equal."
            )
        if self.left_out:
            said.append(f"Without {formats.listed(self.left_out)}, which have not all of these columns and seeds.")
        return said


def rankings(part: Part) -> list[Ranking]:
    """One for each metric of the columns; none where there are fewer than three rows or two seeds that all of them have."""
    metrics = dict.fromkeys(column.metric for column in part.columns if column.better)
    return [made for metric in metrics if (made := _ranking(part, metric)) is not None]


def _ranking(part: Part, metric: str) -> Ranking | None:
    from seqmtl.statistics.ranks import average_ranks, critical_difference, friedman

    columns = [column for column in part.columns if column.metric == metric and column.better]
    have = {row.label: _seeds(row, columns) for row in part.table_rows}
    have = {label: seeds for label, seeds in have.items() if len(seeds) >= FEWEST_SEEDS}
    while len(have) >= FEWEST_SYSTEMS and len(set.intersection(*have.values())) < FEWEST_SEEDS:
        have.pop(min(have, key=lambda label: len(have[label])))
    if len(have) < FEWEST_SYSTEMS:
        return None
    rows = [row for row in part.table_rows if row.label in have]
    seeds = sorted(set.intersection(*have.values()))
    values = np.array([[_value(row, column, seed) for row in rows] for column in columns for seed in seeds])
    return Ranking(
        metric=WORDS.get(metric, metric),
        labels=tuple(row.label for row in rows),
        ranks=average_ranks(values),
        seeds=tuple(seeds),
        columns=tuple(column.title for column in columns),
        difference=critical_difference(len(rows), len(values)),
        p=friedman(values).f_p,
        left_out=tuple(row.label for row in part.table_rows if row.label not in have),
    )


def _seeds(row: Row, columns: list[Column]) -> set[int]:
    """Those with a value in each of the columns."""
    cells = [row.cells.get(column.key) for column in columns]
    known = [set() if cell is None else {seed for seed, value in cell.values.items() if value is not None} for cell in cells]
    return set.intersection(*known)


def _value(row: Row, column: Column, seed: int) -> float:
    """Turned so that more is better."""
    value = row.cells[column.key].values[seed]
    assert value is not None  # by _seeds
    return value * column.better


def _equals(p: float) -> str:
    text = formats.p_value(p)
    return text if text.startswith("<") else f"= {text}"
