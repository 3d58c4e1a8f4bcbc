"""Rows of a split as arrays, before their histories are looked up.

Unusual: numpy and not torch, because batches are made in threads, and each thread that calls torch gets a team of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Shapes: fields (N,F) int32 · y (N,T) int8 · end (N,M) int64 and length (N,M) int32, of M histories, in the schema's order."""

    fields: NDArray[np.int32]
    y: NDArray[np.int8]
    end: NDArray[np.int64]
    length: NDArray[np.int32]

    @staticmethod
    def room(n: int, fields: int, tasks: int, histories: int) -> Rows:
        """n rows to be filled."""
        return Rows(
            np.empty((n, fields), np.int32),
            np.empty((n, tasks), np.int8),
            np.empty((n, histories), np.int64),
            np.empty((n, histories), np.int32),
        )

    def __len__(self) -> int:
        return len(self.fields)

    def take(self, places: NDArray[np.integer]) -> Rows:
        """The rows of some places."""
        return Rows(self.fields[places], self.y[places], self.end[places], self.length[places])

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        """Rows one after another."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((p.fields, p.y, p.end, p.length) for p in parts), strict=True)
        return Rows(*(np.concatenate(column) for column in columns))
