"""Multi-head attention as APEM needs it: the query is a parameter, so it has no projection; no biases anywhere.

    O = concat_j( softmax( Q_j (H W^K_j)ᵀ / sqrt(d_h) ) H W^V_j ) W^O

Unusual: a few queries that are the same for all samples, as those of the pattern selectors, are multiplied into the projections,

    Q_j (H W^K_j)ᵀ = (Q_j W^K_jᵀ) Hᵀ,   A_j (H W^V_j) = (A_j H) W^V_j

so that no row of H is projected.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
        queries = query if self.query is None else self.query(query.transpose(-3, -2)).transpose(-3, -2)
        few = len(query) == 1 and query.shape[2] * self.heads <= query.shape[3]
        o = self._few(queries[0], memory) if few else self._many(queries, memory)  # (B,Q,n,D)
        return (o if self.out is None else self.out(o)).transpose(-3, -2)

    def _many(self, queries: Tensor, memory: Tensor) -> Tensor:
        """queries (B or 1,n,Q,D), memory (B,R,D) → (B,Q,n,D)."""
        k, v = (self._split(x) for x in self._keys_and_values(memory))  # (B,R,n,m,d_h)
        q = self._split(queries.expand(len(memory), -1, -1, -1)).permute(0, 2, 1, 3, 4)  # (B,Q,n,m,d_h)
        n = q.shape[2]
        q_h, k_h, v_h = (x.expand(-1, -1, n, -1, -1).flatten(2, 3).transpose(1, 2) for x in (q, k, v))  # (B,n·m,Q or R,d_h)
        o = F.scaled_dot_product_attention(q_h, k_h, v_h)  # scores / sqrt(d_h)
        return o.transpose(1, 2).reshape(*q.shape[:3], -1)

    def _keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B,R,D) → twice (B,R,n,D), by one product."""
        if self.key is None or self.value is None:
            return memory.unsqueeze(-2), memory.unsqueeze(-2)
        both = torch.stack([self.key.weight, self.value.weight])  # (2,n,D,D)
        k, v = F.linear(memory, both.flatten(0, 2)).unflatten(-1, both.shape[:3]).unbind(2)
        return k, v

    def _few(self, queries: Tensor, memory: Tensor) -> Tensor:
        """queries (n,Q,D), memory (B,R,D) → (B,Q,n,D)."""
        q = self._split(queries * (queries.shape[-1] / self.heads) ** -0.5)  # (n,Q,m,d_h)
        if self.key is None or self.value is None:
            h = self._split(memory)  # (B,R,m,d_h)
            scores = torch.einsum("nqmd,brmd->bnqmr", q, h)
            return torch.einsum("bnqmr,brmd->bqnmd", softmax(scores).to(h.dtype), h).flatten(-2)
        key, value = (x.weight.unflatten(1, (self.heads, -1)) for x in (self.key, self.value))  # (n,m,d_h,D)
        to_rows = torch.einsum("nqmd,nmdi->nqmi", q, key)  # (n,Q,m,D)
        scores = F.linear(memory, to_rows.flatten(0, 2)).transpose(1, 2)  # (B,n·Q·m,R)
        mixed = (softmax(scores).to(memory.dtype) @ memory).unflatten(1, to_rows.shape[:3])  # (B,n,Q,m,D)
        return torch.einsum("bnqmi,nmdi->bqnmd", mixed, value).flatten(-2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))
