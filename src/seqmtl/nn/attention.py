"""Multi-head attention as APEM needs it: the query is a parameter, so it has no projection; no biases anywhere.

    O = concat_j( softmax( Q_j (H W^K_j)ᵀ / sqrt(d_h) ) H W^V_j ) W^O

Unusual: no row of H is projected, as all rows of a batch would have to be. The projections are multiplied into the queries and into
what comes out,

    Q_j (H W^K_j)ᵀ = (Q_j W^K_jᵀ) Hᵀ,   A_j (H W^V_j) W^O_j = (A_j H) (W^V_j W^O_j)

so that all heads of all attentions are queries of width D over the rows themselves (chunked_attention.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.chunked_attention import attend
from seqmtl.nn.mlp import ParallelLinear
from seqmtl.nn.options import divides


class Attention(nn.Module):
    """n attentions side by side over the same rows.

    Args:
        dim: width of queries and rows.
        heads: m; the heads share the width, d_h = dim / m.
        n: number of attentions, each with projections of its own.
        project: False leaves out all projections.
        project_query: also project the query, as an ordinary attention does.

    Shapes: query (B or 1,n,Q,D), memory (B,R,D), zeta (B,Q), which multiplies each query after its projection → (B,n,Q,D).

    Raises:
        SeqmtlError: dim is no multiple of heads.
    """

    def __init__(self, dim: int, heads: int, n: int = 1, project: bool = True, project_query: bool = False) -> None:
        super().__init__()
        divides(heads, dim)
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            ParallelLinear(n, dim, dim, bias=False) if wanted else None for wanted in (project_query, project, project, project)
        )

    def forward(self, query: Tensor, memory: Tensor, zeta: Tensor | None = None) -> Tensor:
        queries = query if self.query is None else self.query(query.transpose(-3, -2)).transpose(-3, -2)
        n, q, d = queries.shape[1:]
        w_k, w_v, w_o = (self._weight(layer, memory) for layer in (self.key, self.value, self.out))  # (n or 1,D,D), output first
        w_k = w_k.unflatten(1, (self.heads, -1)).expand(n, -1, -1, -1) * (d / self.heads) ** -0.5  # (n,m,d_h,D)
        q_k = torch.einsum("bnqmd,nmdi->bnqmi", queries.unflatten(-1, (self.heads, -1)), w_k)  # (B or 1,n,Q,m,D)
        if zeta is not None:
            q_k = q_k * zeta[:, None, :, None, None]
        q_k = q_k.expand(len(memory), -1, -1, -1, -1).flatten(1, 3)  # (B,n·Q·m,D)
        a_h = attend(q_k, memory).view(-1, n, q, self.heads, d)
        w_vo = torch.einsum("nomd,nmdi->nomi", w_o.unflatten(-1, (self.heads, -1)), w_v.unflatten(1, (self.heads, -1)))
        if len(w_vo) == 1:
            return F.linear(a_h.flatten(-2), w_vo[0].flatten(-2))  # (B,n,Q,D)
        return torch.einsum("bnqmi,nomi->bnqo", a_h, w_vo)

    @staticmethod
    def _weight(layer: ParallelLinear | None, like: Tensor) -> Tensor:
        if layer is None:
            return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).unsqueeze(0)
        return layer.weight
