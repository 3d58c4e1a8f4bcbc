"""MMoE: Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts
(Ma et al., KDD 2018, https://doi.org/10.1145/3219819.3220007).

    g_t = softmax(W_t z + b_t),   f_t = Σ_k g_t,k f_k(z),   h_t = tower_t(f_t)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.mlp import MLP, ParallelLinear
from seqmtl.nn.probability import softmax
from seqmtl.types import Features, Schema


class MMoE(nn.Module):
    """A trunk: experts that all tasks share, mixed by a gate for each task.

    Args:
        experts: K, their number.
        dims, dropout: of each expert. The defaults are those of DMT's code (4 experts, no dropout).
        tower_dims, tower_dropout: of each task's tower; no dims, no tower.
        gate_bias: whether the gates have one.
        norm: none, bn or ln, in experts and towers.

    Shapes: z (B,G,W) → h (B,T,H). With G = T the experts and gate t read task t's representation.

    *Differs*: the paper's gates have no bias; every implementation's have one, hence the default.
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
        tasks = len(schema.tasks)
        self.experts = MLP(width, dims, n=experts, dropout=dropout, norm=norm)
        self.gates = ParallelLinear(tasks, width, experts, bias=gate_bias)
        self.towers = MLP(self.experts.width, tower_dims, n=tasks, dropout=tower_dropout, norm=norm)
        self.experts_width, self.width = self.experts.width, self.towers.width

    def forward(self, z: Tensor, features: Features) -> Tensor:
        f = self.experts(z.unsqueeze(2))  # (B,G,K,H)
        g = softmax(self.gates(z))  # (B,T,K) eq. 7
        mixed = torch.einsum("btk,btkh->bth", g.to(f.dtype), f.expand(-1, g.shape[1], -1, -1))  # (B,T,H) eq. 6
        features.extras["experts"] = mixed
        h: Tensor = self.towers(mixed)
        return h
