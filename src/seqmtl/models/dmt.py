"""DMT: Deep Multifaceted Transformers for Multi-objective Ranking in Large-Scale E-commerce Recommender Systems
(Gu et al., CIKM 2020, https://doi.org/10.1145/3340531.3412697): its bottom.

    enc_b = Encoder_b(sqrt(D) X_b + P_b),   interest_b = Decoder_b(query = sqrt(D) e_item, memory = enc_b)

An encoder and a decoder for each history b, with weights of their own. DMT whole is this bottom with MMoE as trunk.

*Differs*: the tower that removes the bias of positions on a page is left out, as such positions are no feature of the data here.
An empty history adds nothing to the decoder's query; in the authors' code attention goes to the padding then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.dropout import Dropout
from seqmtl.nn.histories import all_histories, target
from seqmtl.nn.options import at_least, one_of
from seqmtl.nn.ragged import Ragged
from seqmtl.nn.transformer import Block
from seqmtl.types import Features, Schema

POSITIONS = ("learned", "none")


class DMT(nn.Module):
    """A bottom: each history as the row's item finds it, beside the fields.

    Args:
        heads: of attention; they share the width.
        blocks: layers of each encoder and of each decoder.
        ffn: hidden width of the feed-forward parts; None: 4 times the embedding width.
        dropout: of the encoder's inputs, and of what each part adds. DMT has 0.1; 0 is that of trainings of one epoch.
        positions: learned, counted from the oldest item, or none.
        out_projection: False: the heads side by side, without W^O, as the authors' code.

    Shapes: fields (B,F,D), M histories → z (B,1,(F+M)·D).

    Raises:
        SeqmtlError: no histories, positions of another kind, blocks below 1, or dim is no multiple of heads.
    """

    needs_histories = True

    def __init__(
        self,
        schema: Schema,
        dim: int,
        heads: int = 4,
        blocks: int = 1,
        ffn: int | None = None,
        dropout: float = 0.0,
        positions: str = "learned",
        out_projection: bool = True,
    ) -> None:
        super().__init__()
        one_of("model.bottom.positions", positions, POSITIONS)
        at_least("model.bottom.blocks", blocks, 1)
        at_least("model.bottom.ffn", ffn, 1)
        self.histories = all_histories(schema, "DMT")
        ffn = 4 * dim if ffn is None else ffn
        max_len = {h.name: h.max_len for h in schema.histories}
        self.parts = nn.ModuleList(
            EncoderDecoder(dim, heads, blocks, ffn, dropout, max_len[name] if positions == "learned" else 0, out_projection)
            for name in self.histories
        )
        self.width = (len(schema.fields) + len(self.histories)) * dim

    def forward(self, features: Features) -> Tensor:
        e = target(features)  # (B,D)
        interests = [part(e, *features.past[name]) for name, part in zip(self.histories, self.parts, strict=True)]  # (B,D) each
        return torch.cat([features.fields.flatten(1), *interests], 1).unsqueeze(1)  # (B,1,(F+M)·D)


class EncoderDecoder(nn.Module):
    """What a row's item finds in one history: e (B,D), items (B,L,D), mask (B,L) → (B,D).

    Args:
        positions: how many are learned; 0: none.
    """

    def __init__(self, dim: int, heads: int, blocks: int, ffn: int, dropout: float, positions: int, out_projection: bool) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(positions, dim)) if positions else None
        if self.positions is not None:
            nn.init.xavier_uniform_(self.positions)
        self.encoder, self.decoder = (
            nn.ModuleList(Block(dim, heads, ffn, dropout, out_projection) for _ in range(blocks)) for _ in range(2)
        )
        self.dropout = Dropout(dropout)

    def forward(self, e: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        ragged = Ragged.of(mask)
        x = ragged.take(items) * math.sqrt(e.shape[1])  # (N,D)
        if self.positions is not None:
            x = x + F.embedding(ragged.position, self.positions)
        x, query = self.dropout(x), e * math.sqrt(e.shape[1])
        for block in cast("Sequence[Block]", self.encoder):
            x = block.encode(x, ragged)  # (N,D)
        for block in cast("Sequence[Block]", self.decoder):
            query = block.decode(query, x, ragged)  # (B,D)
        return query
