"""One table for all fields: one lookup, an offset for each field.

Unusual: what is read of the tables can be watched, and some of their rows shifted for a moment. A batch reads a few thousand of
millions of rows; a step that needs gradients of single tasks, or weights at another place, works on those alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.types import Field


class Lookup(NamedTuple):
    """One look into a table: rows (…) of `table` and the vectors (…,D) that stand there, before any shift."""

    table: FieldEmbedding
    rows: Tensor
    vectors: Tensor


class FieldEmbedding(nn.Module):
    """The embeddings of some fields, N(0, 0.01²) as in AITM's code, or uniform within ±`bound`.

    Ids are not checked: one beyond its field's size reads the next field's rows. Prepared data hold none.

    Shapes: fields (B,F) int32 or int64, in the order of the schema, or the first F of them → (B,F,D).
    """

    offsets: Tensor

    def __init__(self, fields: Sequence[Field], dim: int, bound: float | None = None) -> None:
        super().__init__()
        ends = list(accumulate((f.size for f in fields), initial=0))
        self.weight = nn.Parameter(torch.empty(ends[-1], dim))
        if bound is None:
            nn.init.normal_(self.weight, std=0.01)
        else:
            nn.init.uniform_(self.weight, -bound, bound)
        self.offset = {f.name: start for f, start in zip(fields, ends, strict=False)}
        self.register_buffer("offsets", torch.tensor(ends[:-1], dtype=torch.int64), persistent=False)
        self._watcher: list[Lookup] | None = None
        self._cut = False
        self._shift: tuple[Tensor, Tensor] | None = None

    def forward(self, fields: Tensor) -> Tensor:
        return self._read(fields + self.offsets[: fields.shape[1]])

    def lookup(self, field: str, ids: Tensor) -> Tensor:
        """Further ids of one field: (…) → (…,D)."""
        return self._read(ids + self.offset[field])

    def _read(self, rows: Tensor) -> Tensor:
        vectors = F.embedding(rows, self.weight.detach() if self._cut else self.weight)
        if self._watcher is not None:
            self._watcher.append(Lookup(self, rows, vectors.requires_grad_(self.weight.requires_grad) if self._cut else vectors))
        if self._shift is not None:
            shifted, by = self._shift
            place = torch.searchsorted(shifted, rows).clamp(max=len(shifted) - 1)
            here = (shifted[place] == rows).unsqueeze(-1)
            vectors = vectors + torch.where(here, by[place], 0.0)
        return vectors

    @contextlib.contextmanager
    def shift(self, rows: Tensor, by: Tensor) -> Iterator[None]:
        """Inside, `by` (R,D) is added to what is read of `rows` (R,), sorted and distinct; the table itself stays as it is."""
        self._shift = (rows, by) if len(rows) else None
        try:
            yield
        finally:
            self._shift = None


@contextlib.contextmanager
def watch(model: nn.Module, cut: bool = False) -> Iterator[list[Lookup]]:
    """Collects every look into a table of `model` that is taken inside.

    Args:
        cut: the vectors are leaves, so that the gradient ends in them and none of a table's size is made; see `add_gradients`.
    """
    tables = [module for module in model.modules() if isinstance(module, FieldEmbedding)]
    lookups: list[Lookup] = []
    for table in tables:
        table._watcher, table._cut = lookups, cut
    try:
        yield lookups
    finally:
        for table in tables:
            table._watcher, table._cut = None, False


def add_gradients(lookups: Iterable[Lookup]) -> None:
    """Add the gradients of vectors that were cut off to those of their tables."""
    for table, rows, vectors in lookups:
        if vectors.grad is not None:
            if table.weight.grad is None:
                table.weight.grad = torch.zeros_like(table.weight)
            table.weight.grad.index_add_(0, rows.flatten(), vectors.grad.flatten(0, -2))
