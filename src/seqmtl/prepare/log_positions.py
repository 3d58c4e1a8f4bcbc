"""Positive rates by position in the user's list of rows.

A log that is not in the order of time, or that was sorted by its labels, shows here: histories made of it would tell the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.prepare.past import Ints

BINS = 20


class Positions:
    """Counts rows and positives in twentieths of the lists of users with 20 rows or more."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.users = 0
        self.rows = np.zeros(BINS, np.int64)
        self.positives = {task: np.zeros(BINS, np.int64) for task in tasks}

    def add(self, place: Ints, of: Ints, labels: Mapping[str, NDArray[Any]]) -> None:
        """Takes note of all rows of some users: (n,) place in the user's list, from 0, and (n,) the length of that."""
        self.users += int((place == 0).sum())
        long = of >= BINS
        bins = place[long] * BINS // of[long]
        self.rows += np.bincount(bins, minlength=BINS)
        for task, positives in self.positives.items():
            positives += np.bincount(bins[labels[task][long] == 1], minlength=BINS)

    def statistics(self) -> dict[str, Any]:
        """For meta.json."""
        rates = []
        for i, rows in enumerate(self.rows.tolist()):
            if rows:
                shares = {task: round(int(positives[i]) / rows, 6) for task, positives in self.positives.items()}
                rates.append({"position": f"{100 * i // BINS}-{100 * (i + 1) // BINS} %", "rows": rows, **shares})
        return {"users": self.users} | ({"rates_by_position": rates} if rates else {})
