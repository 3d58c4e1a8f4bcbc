"""Shared-Bottom: one MLP for all tasks, a tower for each (Caruana, Multitask Learning, Machine Learning 28, 1997,
https://doi.org/10.1023/A:1007379606734; in this form MMoE, KDD 2018, https://doi.org/10.1145/3219819.3220007, eq. 1).

    h_t = tower_t(f(z))
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seqmtl.nn.mlp import MLP
from seqmtl.types import Features, Schema


class SharedBottom(nn.Module):
    """A trunk: a shared MLP, then towers.

    Args:
        dims, dropout: of the shared MLP. No paper at hand prints sizes; these have the depth and widths of APEM's Single-Task.
        tower_dims, tower_dropout: of each task's tower; no dims, no tower.
        norm: none, bn or ln, in both.

    Shapes: z (B,G,W) → h (B,T,H). With G = T the shared MLP reads each task's representation.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        dims: Sequence[int] = (256, 128),
        tower_dims: Sequence[int] = (64,),
        dropout: float | Sequence[float] = 0.0,
        tower_dropout: float | Sequence[float] = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.shared = MLP(width, dims, dropout=dropout, norm=norm)
        self.towers = MLP(self.shared.width, tower_dims, n=len(schema.tasks), dropout=tower_dropout, norm=norm)
        self.experts_width, self.width = self.shared.width, self.towers.width

    def forward(self, z: Tensor, features: Features) -> Tensor:
        f = self.shared(z.unsqueeze(2)).squeeze(2)  # (B,G,H) eq. 1's f
        features.extras["experts"] = f  # of the one expert
        h: Tensor = self.towers(f)  # (B,T,H)
        return h
