"""One table for all fields: one lookup, an offset for each field."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.types import Field


class FieldEmbedding(nn.Module):
    """The embeddings of some fields, N(0, 0.01²) as in AITM's code.

    Ids are not checked: one beyond its field's size reads the next field's rows. Prepared data hold none.

    Shapes: fields (B,F) int32 or int64, in the order of the schema, or the first F of them → (B,F,D).
    """

    offsets: Tensor

    def __init__(self, fields: Sequence[Field], dim: int, std: float = 0.01) -> None:
        super().__init__()
        ends = list(accumulate((f.size for f in fields), initial=0))
        self.weight = nn.Parameter(torch.empty(ends[-1], dim))
        nn.init.normal_(self.weight, std=std)
        self.offset = {f.name: start for f, start in zip(fields, ends, strict=False)}
        self.register_buffer("offsets", torch.tensor(ends[:-1], dtype=torch.int64), persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        return F.embedding(fields + self.offsets[: fields.shape[1]], self.weight)

    def lookup(self, field: str, ids: Tensor) -> Tensor:
        """Further ids of one field: (…) → (…,D)."""
        return F.embedding(ids + self.offset[field], self.weight)
