"""Multi-head attention as APEM needs it: the query is a parameter, so it has no projection; no biases anywhere.

    O = concat_j( softmax( Q_j (H W^K_j)ᵀ / sqrt(d_h) ) H W^V_j ) W^O

Plain matrix products: with d = 18 and two heads d_h is 9, which fused kernels do not take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.nn.mlp import ParallelLinear
from seqmtl.nn.options import divides
from seqmtl.nn.probability import softmax


class Attention(nn.Module):
    """n attentions side by side over the same rows.

    Args:
        dim: width of queries and rows.
        heads: m; the heads share the width, d_h = dim / m.
        n: number of attentions, each with projections of its own.
        project: False leaves out all projections.
        project_query: also project the query, as an ordinary attention does.

    Shapes: query (B or 1,n,Q,D), memory (B,R,D) → (B,n,Q,D).

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

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        rows = memory.unsqueeze(-2)  # (B,R,1,D)
        queries = query if self.query is None else self.query(query.transpose(-3, -2)).transpose(-3, -2)
        q = self._split(queries * (queries.shape[-1] / self.heads) ** -0.5)  # (B,n,Q,m,d_h), scaled here: fewer numbers than scores
        k = self._split(rows if self.key is None else self.key(rows))  # (B,R,n,m,d_h)
        v = self._split(rows if self.value is None else self.value(rows))
        scores = torch.einsum("bnqmd,brnmd->bnmqr", q, k)
        o = torch.einsum("bnmqr,brnmd->bqnmd", softmax(scores).to(v.dtype), v).flatten(-2)  # (B,Q,n,D)
        return (o if self.out is None else self.out(o)).transpose(-3, -2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))
