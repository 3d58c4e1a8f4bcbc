"""A post-norm Transformer over sequences without padding (Vaswani et al., NeurIPS 2017, https://arxiv.org/abs/1706.03762).

    x' = LN(x + MHA(x)),   out = LN(x' + FFN(x')),   FFN(x') = W_2 ReLU(W_1 x' + b_1) + b_2

The decoder asks one query of each sequence. So its keys and values are not made: a query's score of an item is
(W^K x)·q = x·(W^Kᵀ q), and the weighted mean of values is W^V of the weighted mean of items. The bias of the keys adds the same to
all scores, so the softmax drops it; the bias of the values passes, since weights sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.dropout import Dropout
from seqmtl.nn.mlp import xavier
from seqmtl.nn.options import divides
from seqmtl.nn.ragged import Ragged


def linear(width_in: int, width_out: int, parts: int = 1) -> nn.Linear:
    """One layer that holds `parts` of equal width side by side; each starts xavier_uniform, with bias 0."""
    layer = nn.Linear(width_in, parts * width_out)
    xavier(layer.weight, width_in, width_out)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """One layer of an encoder or a decoder.

    Args:
        dim: width of the items.
        heads: they share the width.
        ffn: hidden width of the feed-forward part.
        dropout: of what attention and the feed-forward part add.
        out_projection: False: the heads side by side, without W^O.
        activation: of the feed-forward part.

    Raises:
        SeqmtlError: dim is no multiple of heads.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn: int,
        dropout: float = 0.0,
        out_projection: bool = True,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        divides(heads, dim)
        self.heads = heads
        self.qkv = linear(dim, dim, parts=3)  # the keys' bias has no effect and no gradient; it is there as in the papers' counts
        self.out = linear(dim, dim) if out_projection else nn.Identity()
        self.ffn = nn.Sequential(linear(dim, ffn), activation(), linear(ffn, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(dropout)

    def encode(self, x: Tensor, items: Ragged) -> Tensor:
        """Every item looks at all items of its sequence: (N,D) → (N,D)."""
        q, k, v = self.qkv(x).chunk(3, -1)
        return self._finish(x, self.out(items.self_attention(q, k, v, self.heads)))

    def decode(self, query: Tensor, x: Tensor, items: Ragged) -> Tensor:
        """Each row's query (B,D) looks at the row's items (N,D) → (B,D). Without items nothing is added, W^O's bias neither."""
        w_q, w_k, w_v = (w.unflatten(0, (self.heads, -1)) for w in self.qkv.weight.chunk(3))  # (h,d,D) each
        b_q, _, b_v = self.qkv.bias.chunk(3)
        q = F.linear(query.index_select(0, items.rows), w_q.flatten(0, 1), b_q).unflatten(-1, (self.heads, -1))  # (R,h,d)
        asked = torch.einsum("rhd,hdD->rhD", q * q.shape[-1] ** -0.5, w_k)  # (R,h,D)
        found = items.glimpse(asked, x)  # (R,h,D)
        o = torch.einsum("rhD,hdD->rhd", found, w_v).flatten(1) + b_v  # (R,D)
        return self._finish(query, items.spread(self.out(o)))

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norms[0](x + self.dropout(attended))
        out: Tensor = self.norms[1](x + self.dropout(self.ffn(x)))
        return out
