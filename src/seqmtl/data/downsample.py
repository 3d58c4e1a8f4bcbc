"""Negatives of one task thinned out at load time, as AITM does with Meituan's (spec of the paper: 5.1, 5.7).

λ is the share of positives that remains: λ = P / (P + p·N) gives p = P·(1 - λ) / (λ·N), the share of the N negatives that is kept.

Unusual: whether a row is kept depends on its `_row` and the seed alone, so every rank, worker and order of reading keeps the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.draws import uniform
from seqmtl.data.meta import Meta
from seqmtl.errors import SeqmtlError

STREAM = 2000  # of random numbers; the converters use those below
SPLITS = ("train", "valid")  # the test split stays as it is


@dataclass(frozen=True)
class Downsample:
    """Keeps each row with task = 0 with probability `keep`."""

    task: str
    keep: float
    seed: int = 0

    def mask(self, label: NDArray[Any], row: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows stay: label (N,), row (N,) → (N,)."""
        return (label != 0) | (uniform(row, self.seed, STREAM) < self.keep)


def chosen_downsample(options: Mapping[str, Any] | None, meta: Meta) -> Downsample | None:
    """`dataset.downsample` with the counts of the training split; None where it is null.

    Raises:
        SeqmtlError: an unknown task or key, or a rate that is not above the natural one.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping) or set(options) != {"task", "rate", "seed"}:
        raise SeqmtlError(f"dataset.downsample must be null or {{task: …, rate: …, seed: …}}, not {options!r}")
    task, rate, seed = options["task"], options["rate"], options["seed"]
    counted = meta.positives.get("train", {})
    if not isinstance(task, str) or not counted.get(task):
        raise SeqmtlError(
            f"dataset.downsample.task={task}: meta.json counts no positives of it in training; it has {', '.join(meta.parents)}"
        )
    positives, rows = counted[task], meta.rows["train"]
    natural = positives / max(rows, 1)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not natural < rate < 1:
        raise SeqmtlError(
            f"dataset.downsample.rate={rate} must lie between the rate of {task} in the training rows ({natural:.4%}) and 1;"
            " dataset.downsample=null keeps all rows"
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise SeqmtlError(f"dataset.downsample.seed must be an integer of at least 0, not {seed!r}")
    return Downsample(task, positives * (1 - rate) / (rate * (rows - positives)), seed)
