"""One table for all fields: one lookup, an offset for each field.

Unusual: what is read of the tables can be watched, and some of their rows shifted for a moment. A batch reads a few thousand of
millions of rows; a step that needs gradients of single tasks, or weights at another place, works on those alone.

And an optimizer may leave rows behind that no batch reads, if it is told before they are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.table_gradients import forget_rows
from seqmtl.types import Field

BeforeRead = Callable[[Tensor | None], None]  # is told the rows (…), with repetitions, that are read next; None: all


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
        self.before_read: list[BeforeRead] = []
        self._mark()
        self.offset = {f.name: start for f, start in zip(fields, ends, strict=False)}
        self.register_buffer("offsets", torch.tensor(ends[:-1], dtype=torch.int64), persistent=False)
        self._watcher: list[Lookup] | None = None
        self._cut = False
        self._shift: tuple[Tensor, Tensor] | None = None

    def _mark(self) -> None:
        """What a weight says of itself to optimizers, which see no modules; copies of a weight do not take it along."""
        self.weight.register_post_accumulate_grad_hook(forget_rows)  # of autograd's own gradients, which end in any row
        self.weight.before_read = self.before_read  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"before_read": []}  # the hooks of an optimizer are of the weight that it moves

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._mark()

    def forward(self, fields: Tensor) -> Tensor:
        return self._read(fields + self.offsets[: fields.shape[1]])

    def lookup(self, field: str, ids: Tensor) -> Tensor:
        """Further ids of one field: (…) → (…,D)."""
        return self._read(ids + self.offset[field])

    def about_to_be_read(self, rows: Tensor | None = None) -> None:
        """Bring these rows up to date, all by default: to be called before `weight` itself is used, beside the lookups here."""
        for hook in self.before_read:
            hook(rows)

    def _read(self, rows: Tensor) -> Tensor:
        self.about_to_be_read(rows)
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


def is_table(parameter: Tensor) -> bool:
    """Whether it is the weight of a FieldEmbedding."""
    return hasattr(parameter, "before_read")


def call_before_read(table: Tensor, hook: BeforeRead) -> None:
    """From now on `hook` is called before rows of this table are read, and no other."""
    table.before_read[:] = [hook]  # type: ignore[attr-defined]
