"""Rows to measure speed on: ids as skewed as real ones, labels that ids tell something of, a prepared dataset like any other.

Unusual: what a training step costs depends on how many different ids a batch has. Ids are therefore drawn by Zipf's law, id k with
a probability of about 1/k, from tables as large as those of Ali-CCP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import SPLITS, Meta
from seqmtl.prepare.writer import DatasetWriter

# Rows of the table of each single-valued field of Ali-CCP, id 0 among them, as AITM prepares it (KDD 2021, its code).
VOCABULARY = {
    **{"101": 238_635, "121": 98, "122": 14, "124": 3, "125": 8, "126": 4, "127": 4, "128": 3, "129": 5},
    **{"205": 467_298, "206": 6_929, "207": 263_942, "216": 106_399, "508": 5_888, "509": 104_830, "702": 51_878, "853": 37_148},
    "301": 4,
}
FIRST_RATE, NEXT_RATE = 0.04, 0.2  # how often the first step happens, and each other one where the step before it did
TASTE = 0.25  # standard deviation of what an id adds to the log-odds
HISTORY_ITEMS = 1_000_000  # of each flat array
CHUNK = 500_000  # rows that are made at once


def zipf_ids(rng: np.random.Generator, size: int, rows: int) -> NDArray[np.int32]:
    """Ids (rows,) from 1 to size - 1, id k with a probability proportional to log(1 + 1/k); a table of one row has id 0 only."""
    if size < 2:
        return np.zeros(rows, np.int32)
    ids = np.floor(np.exp(rng.random(rows) * np.log(size)))
    return np.clip(ids, 1, size - 1).astype(np.int32)


def scaled(factor: float, sizes: Mapping[str, int] = VOCABULARY) -> dict[str, int]:
    """Tables of `factor` times the rows, of 2 at least."""
    return {name: max(2, round(size * factor)) for name, size in sizes.items()}


def chain(names: Sequence[str]) -> dict[str, str | None]:
    """The parent of each task where one follows the other."""
    return {name: names[t - 1] if t else None for t, name in enumerate(names)}


class RowMaker:
    """Makes rows of the same tastes, as many as are asked for.

    Args:
        sizes: rows of each field's table.
        tasks: names, each a step that can happen only after the one before it.
        histories: {name: the most items of a row}, of the ids of the first field.
        seed: of the tastes and the rows.
    """

    def __init__(
        self, sizes: Mapping[str, int], tasks: Sequence[str], histories: Mapping[str, int] | None = None, seed: int = 0
    ) -> None:
        self.sizes, self.tasks, self.histories = dict(sizes), tuple(tasks), dict(histories or {})
        self.rng = np.random.default_rng(seed)
        self.tastes = {
            name: self.rng.normal(0, TASTE, (size, len(self.tasks))).astype(np.float32) for name, size in self.sizes.items()
        }

    def columns(self, rows: int, first_row: int = 0) -> dict[str, NDArray[Any]]:
        """One array (rows,) for each field and task, `_row`, and the end and the length of each history."""
        columns: dict[str, NDArray[Any]] = {name: zipf_ids(self.rng, size, rows) for name, size in self.sizes.items()}
        score = np.zeros((rows, len(self.tasks)), np.float32)
        for name, taste in self.tastes.items():
            score += taste[columns[name]]
        score /= max(1.0, TASTE * len(self.sizes) ** 0.5)  # rates stay what they are, however many fields there are
        happened = np.ones(rows, bool)
        for t, task in enumerate(self.tasks):
            rate = NEXT_RATE if t else FIRST_RATE
            odds = np.exp(score[:, t]) * rate / (1 - rate)
            happened &= self.rng.random(rows) < odds / (1 + odds)
            columns[task] = happened.astype(np.int8)
        columns["_row"] = np.arange(first_row, first_row + rows)
        for name, most in self.histories.items():
            columns[f"{name}_len"] = self.rng.integers(0, most + 1, rows).astype(np.int32)
            columns[f"{name}_end"] = self.rng.integers(most, HISTORY_ITEMS + 1, rows)
        return columns

    def items(self) -> NDArray[np.int32]:
        """The flat array of one history."""
        return zipf_ids(self.rng, next(iter(self.sizes.values())), HISTORY_ITEMS)


def write_rows(directory: Path, maker: RowMaker, rows: Mapping[str, int]) -> Meta:
    """A prepared dataset in a directory that is not there yet.

    Args:
        rows: of each split, at least 1.
    """
    directory.mkdir(parents=True)
    first = next(iter(maker.sizes))
    writer = DatasetWriter(directory, list(maker.sizes), chain(maker.tasks), histories=dict.fromkeys(maker.histories, first))
    for name in maker.histories:
        writer.history(name, maker.items())
    for split in SPLITS:
        for start in range(0, rows[split], CHUNK):
            writer.add(split, maker.columns(min(CHUNK, rows[split] - start), start))
    return writer.finish(maker.sizes, {})
