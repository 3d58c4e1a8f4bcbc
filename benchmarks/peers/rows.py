"""The rows of a prepared dataset as NumPy arrays, as the peers take them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Arrays:
    """x {field: (N,) int32} and y (N,T) int8."""

    x: dict[str, Any]
    y: Any

    def __len__(self) -> int:
        return len(self.y)

    def first(self, rows: int | None) -> Arrays:
        """So many rows from the front; None: all."""
        return Arrays({name: ids[:rows] for name, ids in self.x.items()}, self.y[:rows])


def sizes_and_tasks(directory: Path) -> tuple[dict[str, int], list[str]]:
    """Rows of each field's table, and the names of the tasks."""
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return meta["fields"], list(meta["parents"])


def read_split(directory: Path, split: str) -> Arrays:
    """All rows of one split."""
    sizes, tasks = sizes_and_tasks(directory)
    table = pq.read_table(directory / split, columns=[*sizes, *tasks])
    return Arrays({name: table[name].to_numpy() for name in sizes}, np.stack([table[name].to_numpy() for name in tasks], 1))
