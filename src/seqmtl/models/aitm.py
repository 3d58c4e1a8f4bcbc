"""AITM: Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in Targeted Display
Advertising (Xi et al., KDD 2021, https://arxiv.org/abs/2105.08489).

    z_t = AIT(p, q_t),   q_t = f_t(v),   p = g(z_u) for the parent u of t,   z_t = q_t where there is none
    AIT(p, q) = Σ_{u∈{p,q}} w_u h_1(u),   w = softmax of ŵ_u = ⟨h_2(u), h_3(u)⟩ / sqrt(k)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.graph import resolve_parents
from seqmtl.nn.mlp import MLP
from seqmtl.nn.probability import softmax
from seqmtl.types import Features, Schema


class AIT(nn.Module):
    """Mixes what the parent hands over with the task's own information; each is scored against itself, not the other.

    Shapes: p, q (B,k) → z (B,k), weights of p and q (B,2).
    """

    def __init__(self, k: int, bias: bool = False, activation: bool = False) -> None:
        super().__init__()
        self.w_1, self.w_2, self.w_3 = (nn.Linear(k, k, bias=bias) for _ in range(3))
        self.act = nn.ReLU() if activation else nn.Identity()
        for layer in (self.w_1, self.w_2, self.w_3):
            nn.init.normal_(layer.weight, std=0.01)
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.stack([p, q], 1)  # (B,2,k)
        value, query, key = (self.act(w(u)) for w in (self.w_1, self.w_2, self.w_3))
        w = softmax((query * key).sum(-1) / u.shape[-1] ** 0.5)  # (B,2) eq. 8
        return (w.unsqueeze(-1) * value).sum(1), w  # (B,k) eq. 7


class AITM(nn.Module):
    """A trunk: towers, and for each edge of the task graph a transfer from parent to child.

    Args:
        dims, dropout, norm: of the towers (Table 4 and A.1); norm bn is AITM_standard's.
        transfer_dropout: of g; None: the last tower layer's rate.
        parents: index of each task's parent or None, instead of the schema's.
        ait_bias, ait_activation: whether h_1..h_3 have a bias and a ReLU.
        ait_shared: one set of h_1..h_3 for all edges.

    Shapes: z (B,G,W) → h (B,T,k). `extras["transfer"]` (B,T): the weight w_p of what the parent hands over, 0 for a root; detached.

    Raises:
        SeqmtlError: no task has a parent.

    *Differs*: the paper calls h_1..h_3 single-layer MLPs; its code, followed here, has bias-free matrices, N(0, 0.01²), shared by
    all edges. The graph may be a tree.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        dims: Sequence[int] = (128, 64, 32),
        dropout: float | Sequence[float] = (0.1, 0.3, 0.3),
        norm: str = "none",
        transfer_dropout: float | None = None,
        parents: Sequence[int | None] | None = None,
        ait_bias: bool = False,
        ait_activation: bool = False,
        ait_shared: bool = True,
    ) -> None:
        super().__init__()
        self.parents = resolve_parents(schema, parents, "AITM", "model.trunk.parents")
        edges = sum(u is not None for u in self.parents)
        last = dropout if isinstance(dropout, int | float) else [0.0, *dropout][-1]
        rate = last if transfer_dropout is None else transfer_dropout
        self.towers = MLP(width, dims, n=len(schema.tasks), dropout=dropout, norm=norm)
        self.width = k = self.towers.width
        self.g = nn.ModuleList(MLP(k, [k], dropout=rate) for _ in range(edges))
        self.ait = nn.ModuleList(AIT(k, ait_bias, ait_activation) for _ in range(1 if ait_shared else edges))

    def forward(self, z: Tensor, features: Features) -> Tensor:
        q = self.towers(z).unbind(1)  # T of (B,k) eq. 4
        h: list[Tensor] = []
        transfer: list[Tensor] = []
        edge = 0
        for t, u in enumerate(self.parents):
            if u is None:
                h.append(q[t])  # eq. 9
                transfer.append(q[t].new_zeros(len(z), dtype=torch.float32))
                continue
            p = self.g[edge](h[u].unsqueeze(1)).squeeze(1)  # (B,k) eq. 6
            mixed, w = self.ait[edge % len(self.ait)](p, q[t])  # eq. 5
            h.append(mixed)
            transfer.append(w[:, 0].detach().float())
            edge += 1
        features.extras["transfer"] = torch.stack(transfer, 1)
        return torch.stack([x.to(h[-1].dtype) for x in h], 1)  # (B,T,k)
