"""BST: Behavior Sequence Transformer for E-commerce Recommendation in Alibaba
(Chen et al., DLP-KDD 2019, https://arxiv.org/abs/1905.06874): its bottom.

    S = [x_1 … x_L, e] + P,   S' = LN(S + MHA(S)),   F = LN(S' + FFN(S')),   FFN(s) = W_2 LeakyReLU(W_1 s + b_1) + b_2

Unusual: of the last block only what `pool` reads is made. Where that is the target's token, it is one query over its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.histories import main_history, target, with_target
from seqmtl.nn.options import at_least, one_of
from seqmtl.nn.ragged import Ragged
from seqmtl.nn.transformer import Block
from seqmtl.types import Features, Schema

POOLS = ("target", "mean", "concat")
POSITIONS = ("add", "concat", "none")


class BST(nn.Module):
    """A bottom: the main history and the row's item in one Transformer, beside the fields.

    Args:
        heads: of attention; they share the width.
        blocks: layers.
        dropout: of what attention and the feed-forward part add.
        pool: the target's token; the mean of all; or concat, all side by side: the target, then from the newest item to the oldest,
            0 where there is none.
        positions: whether their embeddings are added to the items', stand beside them (tokens twice as wide), or are left out.

    Shapes: fields (B,F,D), tokens as wide as D' = D, or 2D with positions concat → z (B,1,F·D + D'), with pool concat
    (B,1,F·D + (max_len+1)·D').

    Raises:
        SeqmtlError: no main history, an unknown choice, or heads that do not divide the width.

    *Differs*: positions count back from the target (0), as the data have no time; the paper's are differences in time, in buckets.
    The paper concatenates all tokens and the positions; ports keep the target's token and add.
    """

    needs_histories = True

    def __init__(
        self,
        schema: Schema,
        dim: int,
        heads: int = 8,
        blocks: int = 1,
        dropout: float = 0.2,
        pool: str = "target",
        positions: str = "add",
    ) -> None:
        super().__init__()
        for option, value, choices in (("pool", pool, POOLS), ("positions", positions, POSITIONS)):
            one_of(f"model.bottom.{option}", value, choices)
        at_least("model.bottom.blocks", blocks, 1)
        self.histories = main_history(schema, "BST")
        self.slots = 1 + next(h.max_len for h in schema.histories if h.name in self.histories)
        self.pool, self.concat_positions = pool, positions == "concat"
        self.positions = None if positions == "none" else nn.Parameter(0.01 * torch.randn(self.slots, dim))
        wide = 2 * dim if self.concat_positions else dim
        self.blocks = nn.ModuleList(Block(wide, heads, 4 * wide, dropout, activation=nn.LeakyReLU) for _ in range(blocks))
        self.width = len(schema.fields) * dim + (self.slots if pool == "concat" else 1) * wide

    def forward(self, features: Features) -> Tensor:
        items, mask = features.past[self.histories[0]]
        past = Ragged.of(mask)
        tokens, s = with_target(target(features), past, past.take(items))  # (N,D), N counts the targets too
        back = (tokens.lengths[tokens.row] - tokens.position) % tokens.lengths[tokens.row]  # 0 the target, 1 the newest item
        if self.positions is not None:
            p = F.embedding(back, self.positions)
            s = torch.cat([s, p], 1) if self.concat_positions else s + p  # (N,D')
        interest = self._pool(s, tokens, back)
        return torch.cat([features.fields.flatten(1), interest], 1).unsqueeze(1)

    def _pool(self, s: Tensor, tokens: Ragged, back: Tensor) -> Tensor:
        *before, last = cast("Sequence[Block]", self.blocks)
        for block in before:
            s = block.encode(s, tokens)
        if self.pool == "target":
            e = s.index_select(0, tokens.lengths.cumsum(0) - tokens.lengths)  # (B,D')
            return last.decode(e, s, tokens)
        s = last.encode(s, tokens)
        if self.pool == "mean":
            return tokens.mean(s)
        slots = s.new_zeros(tokens.size * self.slots, s.shape[1])
        return slots.index_copy(0, tokens.row * self.slots + back, s).view(tokens.size, self.slots * s.shape[1])
