"""ASRG, the adaptive sample-wise representation generator: one layer of APEM (section 3.1; see apem.py).

ζ = f_D(H W + b; γ),   O = MHA(I ⊙ ζ, H, H),   Y = LN(O + residual)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.attention import Attention
from seqmtl.nn.layer_norm import LayerNorm
from seqmtl.nn.mlp import MLP, ParallelLinear, xavier
from seqmtl.nn.smooth_step import smooth_step


class ASRG(nn.Module):
    """One layer of the representation generator: H (B,n,D) → Y (B,rows,D) and ζ (B,K), None where there is no selector."""

    compiled_alone = True

    def __init__(
        self, n: int, dim: int, heads: int, inducing: int, selector_dims: Sequence[int], asrg: str, residual: str, mask_mode: str
    ) -> None:
        super().__init__()
        own = asrg == "self_attention"
        # Eq. 17 adds K rows to n; "auto" is literal where the shapes agree, and adds the query in the first layer.
        self.residual, self.mask_output = "input" if own else residual, mask_mode == "output"
        self.rows = n if own else inducing + n * (residual == "concat")
        self.attention = Attention(dim, heads, project_query=own)
        self.norm = LayerNorm(dim)
        self.points = None if own else nn.Parameter(torch.empty(inducing, dim))
        if self.points is not None:
            xavier(self.points, dim, inducing)
        self.selector = None
        if asrg == "dynamic":
            hidden = MLP(n * dim, selector_dims)
            self.selector = nn.Sequential(hidden, ParallelLinear(1, hidden.width, inducing))
        self.mix = nn.Parameter(torch.empty(inducing, n)) if self.residual == "proj" else None
        if self.mix is not None:
            xavier(self.mix, n, inducing)

    def forward(self, h: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor | None]:
        zeta = None
        query = h if self.points is None else self.points.unsqueeze(0)  # (1,K,D)
        if self.selector is not None:
            zeta = smooth_step(self.selector(h.flatten(1).unsqueeze(1)).squeeze(1), gamma)  # (B,K) eq. 11-13
        o = self.attention(query.unsqueeze(1), h, zeta).squeeze(1)  # (B,K,D) eq. 14-16: the queries are I ⊙ ζ
        if zeta is not None and self.mask_output:
            o = o * zeta.unsqueeze(-1)
        if self.residual == "concat":
            o = torch.cat([o, h], 1)
        elif self.residual != "none":
            o = o + self._residual(h, query, zeta)
        return self.norm(o), zeta  # eq. 17

    def _residual(self, h: Tensor, query: Tensor, zeta: Tensor | None) -> Tensor:
        if self.residual == "mean":
            return h.mean(1, keepdim=True)
        if self.mix is not None:
            return self.mix @ h
        if self.residual == "input":
            return h
        return query if zeta is None else query * zeta.unsqueeze(-1)
