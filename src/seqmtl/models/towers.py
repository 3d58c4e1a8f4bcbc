"""Towers: an MLP of its own for each task, all of one shape (Single-Task's body; APEM's output; ESMM's body)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seqmtl.nn.mlp import MLP
from seqmtl.types import Features, Schema


class Towers(nn.Module):
    """h_t = MLP_t(z_t).

    Args:
        dims, dropout, norm: of the towers; see `MLP`. The default is AITM's tower (Table 4).

    Shapes: z (B,G,W) → h (B,T,dims[-1]).
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        dims: Sequence[int] = (128, 64, 32),
        dropout: float | Sequence[float] = (0.1, 0.3, 0.3),
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.towers = MLP(width, dims, n=len(schema.tasks), dropout=dropout, norm=norm)
        self.width = self.towers.width

    def forward(self, z: Tensor, features: Features) -> Tensor:
        h: Tensor = self.towers(z)
        return h
