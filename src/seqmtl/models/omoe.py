"""OMoE, the mixture of experts with one gate that MMoE's paper compares itself with (Ma et al., KDD 2018,
https://doi.org/10.1145/3219819.3220007).

    g = softmax(W z + b),   f = Σ_k g_k f_k(z),   h_t = tower_t(f)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.mlp import MLP, ParallelLinear
from seqmtl.nn.probability import softmax
from seqmtl.types import Features, Schema


class OMoE(nn.Module):
    """A trunk: experts that all tasks share, mixed by one gate for all tasks.

    Args: as `MMoE`.

    Shapes: z (B,G,W) → h (B,T,H). With G = T the experts and the gate read each task's representation.

    *Differs*: as in `MMoE`, the gate has a bias.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        experts: int = 4,
        dims: Sequence[int] = (512, 256, 128),
        tower_dims: Sequence[int] = (32,),
        dropout: float | Sequence[float] = 0.0,
        tower_dropout: float | Sequence[float] = 0.0,
        gate_bias: bool = True,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.experts = MLP(width, dims, n=experts, dropout=dropout, norm=norm)
        self.gate = ParallelLinear(1, width, experts, bias=gate_bias)
        self.towers = MLP(self.experts.width, tower_dims, n=len(schema.tasks), dropout=tower_dropout, norm=norm)
        self.experts_width, self.width = self.experts.width, self.towers.width

    def forward(self, z: Tensor, features: Features) -> Tensor:
        f = self.experts(z.unsqueeze(2))  # (B,G,K,H)
        g = softmax(self.gate(z.unsqueeze(2)).squeeze(2))  # (B,G,K)
        mixed = torch.einsum("bgk,bgkh->bgh", g.to(f.dtype), f)  # (B,G,H)
        features.extras["experts"] = mixed
        h: Tensor = self.towers(mixed)  # (B,T,H)
        return h
