"""The plain bottom: all field embeddings side by side (AITM eq. 3, and every model without sequences)."""

from __future__ import annotations

from torch import Tensor, nn

from seqmtl.types import Features, Schema


class Flat(nn.Module):
    """Concatenates the fields: (B,F,D) → z (B,1,F·D), one representation for all tasks."""

    histories = ()  # what it reads of them

    def __init__(self, schema: Schema, dim: int) -> None:
        super().__init__()
        self.width = len(schema.fields) * dim

    def forward(self, features: Features) -> Tensor:
        return features.fields.flatten(1).unsqueeze(1)
