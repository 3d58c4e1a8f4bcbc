"""ATRank: An Attention-Based User Behavior Modeling Framework for Recommendation
(Zhou et al., AAAI 2018, https://arxiv.org/abs/1711.06632): its bottom.

    u = W [item, behaviour, bucket of time] + b                              all behaviours in one space
    Q, K, V = ReLU(Linear(·)),   s' = LN(s + Attention(Q, K, V)),   s'' = LN(s' + FFN(s'))

First the items of all histories look at each other, then the row's item looks at them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.dropout import Dropout
from seqmtl.nn.histories import all_histories, target
from seqmtl.nn.options import at_least
from seqmtl.nn.ragged import Ragged
from seqmtl.nn.transformer import linear
from seqmtl.types import Features, Schema


class Block(nn.Module):
    """Attention with ReLU in its projections, and a feed-forward part that is narrow in its middle."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, width, parts=3)
        self.ffn = nn.Sequential(linear(width, width // 4), nn.ReLU(), linear(width // 4, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, s: Tensor, tokens: Ragged, e: Tensor | None = None) -> Tensor:
        """Every token looks at all of its row: s (N,C) → (N,C); with e the row's item does: (B,C) → (B,C), also without tokens."""
        if e is None:
            q, k, v = self.qkv(s).relu().chunk(3, -1)
            return self._finish(s, tokens.self_attention(q, k, v, self.heads))
        w, b, c = self.qkv.weight, self.qkv.bias, e.shape[1]
        q = F.linear(e.index_select(0, tokens.rows), w[:c], b[:c]).relu()  # (R,C)
        k, v = F.linear(s, w[c:], b[c:]).relu().chunk(2, -1)
        return self._finish(e, tokens.spread(tokens.attention(q, k, v, self.heads)))

    def _finish(self, s: Tensor, attended: Tensor) -> Tensor:
        s = self.norms[0](s + self.dropout(attended))
        out: Tensor = self.norms[1](s + self.dropout(self.ffn(s)))
        return out


class ATRank(nn.Module):
    """A bottom: all histories as one sequence, asked by the row's item, beside the fields.

    Args:
        hidden, heads: width C of the common space, and the heads of attention that share it.
        blocks, dropout: layers of the items' attention, and of the target's; and the dropout of what their parts add.
        behaviour_dim: width of the embeddings of behaviours; None: D.
        buckets: of time; 0: the order of items does not count.

    Shapes: fields (B,F,D) → z (B,1,F·D + C).

    Raises:
        SeqmtlError: no histories, heads that do not divide C, C that is no multiple of 4, or a number too small.

    *Differs*: the data have no time, so buckets are of the distance i from the end of an item's own history, floor(log2 i) + 1, at
    most the last; the target has no behaviour and no bucket. One W for all, as all are items. The dot product with the target, by
    which ATRank ranks, is left to the trunk.
    """

    needs_histories = True

    def __init__(
        self,
        schema: Schema,
        dim: int,
        hidden: int = 128,
        heads: int = 8,
        blocks: int = 1,
        dropout: float = 0.0,
        behaviour_dim: int | None = None,
        buckets: int = 12,
    ) -> None:
        super().__init__()
        if heads < 1 or hidden < 4 or hidden % heads or hidden % 4:
            raise SeqmtlError(f"model.bottom.hidden={hidden} must be a multiple of 4 and of model.bottom.heads={heads}")
        at_least("model.bottom.blocks", blocks, 1)
        at_least("model.bottom.buckets", buckets, 0)
        self.histories, self.buckets = all_histories(schema, "ATRank"), buckets
        self.behaviours = nn.Parameter(0.01 * torch.randn(len(self.histories), dim if behaviour_dim is None else behaviour_dim))
        self.project = linear(dim + self.behaviours.shape[1] + buckets, hidden)
        self.encoder, self.decoder = (nn.ModuleList(Block(hidden, heads, dropout) for _ in range(blocks)) for _ in range(2))
        self.width = len(schema.fields) * dim + hidden

    def forward(self, features: Features) -> Tensor:
        parts, rows = [], []
        for behaviour, name in zip(self.behaviours, self.histories, strict=True):
            items, mask = features.past[name]
            past = Ragged.of(mask)
            x = past.take(items)
            time = bucket(past.lengths[past.row] - past.position, self.buckets).to(x.dtype)
            parts.append(torch.cat([x, behaviour.expand(len(x), -1), time], 1))
            rows.append(past.rows[past.row])
        row = torch.cat(rows)
        lengths = torch.bincount(row, minlength=len(features.fields))
        some = lengths.nonzero().squeeze(1)
        tokens = Ragged(len(lengths), some, lengths[some])
        s = self.project(torch.cat(parts).index_select(0, row.argsort(stable=True)))  # (N,C), row after row
        e = target(features)
        u = F.linear(e, self.project.weight[:, : e.shape[1]], self.project.bias)  # (B,C), neither behaviour nor bucket
        for block in self.encoder:
            s = block(s, tokens)
        for block in self.decoder:
            u = block(s, tokens, u)
        return torch.cat([features.fields.flatten(1), u], 1).unsqueeze(1)


def bucket(distance: Tensor, buckets: int) -> Tensor:
    """One-hot (N,buckets) of floor(log2 i) + 1 for distances i from 1, at most the last; (N,0) without buckets."""
    exponent = torch.frexp(distance.float()).exponent.long()  # i = m 2^exponent, m from 1/2: exact, as a logarithm need not be
    return F.one_hot(exponent.clamp(max=buckets - 1), buckets) if buckets else exponent.new_zeros(len(exponent), 0)
