"""DFN: Deep Feedback Network for Recommendation (Xie et al., IJCAI 2020, https://doi.org/10.24963/ijcai.2020/349): its bottom.
DTRN's text calls it DeepFeed.

    o_m = pool of FFN_m(MHA_m([e, x_1 … x_L]))                      internal: each history m with the target
    f_pn = Σ_i softmax_i(MLP_pn([o_p, x_i, o_p - x_i, o_p ⊙ x_i]) / sqrt(D)) x_i
                                                                     external: negative history n as positive one p finds it

Unusual: the last layer of FFN_m is linear, so it is applied to the mean instead of to each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.activation_unit import ActivationUnit
from seqmtl.nn.histories import all_histories, target, with_target
from seqmtl.nn.mlp import xavier
from seqmtl.nn.options import divides, one_of
from seqmtl.nn.ragged import Ragged
from seqmtl.nn.transformer import linear
from seqmtl.types import Features, Schema

POOLS = ("mean", "sum")


class Internal(nn.Module):
    """The weights of one history's attention and feed-forward part; no residual, no LayerNorm, no W^O."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        xavier(cast("nn.Parameter", self.qkv.weight), dim, dim)
        self.hidden, self.out = linear(dim, 4 * dim), linear(4 * dim, dim)


class DFN(nn.Module):
    """A bottom: each history with the target, and negative feedback as positive feedback finds it, beside the fields.

    Args:
        heads: of attention; they share the width.
        attention_dims: hidden layers of the external attention.
        pool: of a history's tokens: mean or sum.

    Shapes: fields (B,F,D), M histories, P of positive and N of negative feedback → z (B,1,(F + M + P·N)·D).

    Raises:
        SeqmtlError: no history of positive feedback, an unknown pool, or heads that do not divide the width.

    *Differs*: FM and the wide part, which belong to a network for a single task, and the positions of items are left out. The
    authors' code also sums over padding; here a token counts only where there is one. As in that code scores are divided by
    sqrt(D), not by the root of a head's width. The scores' bias in MLP_pn, without effect under a softmax, is left out. Without
    negative feedback there is no external part.
    """

    needs_histories = True

    def __init__(self, schema: Schema, dim: int, heads: int = 4, attention_dims: Sequence[int] = (32,), pool: str = "mean") -> None:
        super().__init__()
        one_of("model.bottom.pool", pool, POOLS)
        divides(heads, dim)
        self.histories = names = all_histories(schema, "DFN")
        signs = [h.sign for h in schema.histories]
        self.positive = [m for m, sign in enumerate(signs) if sign >= 0]
        self.negative = [m for m, sign in enumerate(signs) if sign < 0]
        if not self.positive:
            raise SeqmtlError(
                f"DFN reads histories of positive feedback, and all that there are ({', '.join(names)}) are negative;"
                f" say which is not: dataset.histories.{names[0]}.sign=1"
            )
        self.heads, self.pool = heads, pool
        self.internal = nn.ModuleList(Internal(dim) for _ in names)
        self.external = nn.ModuleList(
            nn.ModuleList(ActivationUnit(dim, attention_dims, "relu", bias=False) for _ in self.positive) for _ in self.negative
        )
        self.width = (len(schema.fields) + len(names) + len(self.positive) * len(self.negative)) * dim

    def forward(self, features: Features) -> Tensor:
        pasts = [Ragged.of(features.past[name][1]) for name in self.histories]
        xs = [past.take(features.past[name][0]) for past, name in zip(pasts, self.histories, strict=True)]  # (N,D) each
        o = self._internal(target(features), pasts, xs)  # M of (B,D)
        f = [
            self._external(units, [o[p] for p in self.positive], pasts[n], xs[n]).flatten(1)  # (B,P·D)
            for n, units in zip(self.negative, cast("Sequence[nn.ModuleList]", self.external), strict=True)
        ]
        return torch.cat([features.fields.flatten(1), *o, *f], 1).unsqueeze(1)

    def _internal(self, e: Tensor, pasts: Sequence[Ragged], xs: Sequence[Tensor]) -> list[Tensor]:
        parts = cast("Sequence[Internal]", self.internal)
        tokens, s = zip(*(with_target(e, past, x) for past, x in zip(pasts, xs, strict=True)), strict=True)
        q, k, v = torch.cat([part.qkv(x) for part, x in zip(parts, s, strict=True)]).chunk(3, -1)
        q = q * self.heads**-0.5  # the attention divides by the root of a head's width
        attended = Ragged.cat(tokens).self_attention(q, k, v, self.heads).split([len(x) for x in s])
        o = []
        for part, row, a in zip(parts, tokens, attended, strict=True):
            mean = part.out(row.mean(part.hidden(a).relu()))  # (B,D)
            o.append(mean * row.lengths.unsqueeze(1) if self.pool == "sum" else mean)
        return o

    def _external(self, units: Iterable[nn.Module], o: Sequence[Tensor], past: Ragged, x: Tensor) -> Tensor:
        """What each of P queries (B,D) finds among the items x (N,D) of a negative history: (B,P,D), 0 where it is empty."""
        scores = torch.stack(
            [unit(q.index_select(0, past.rows), x, past.row) for unit, q in zip(units, o, strict=True)], 1
        )  # (N,P)
        weights = past.softmax(scores * x.shape[1] ** -0.5)
        return past.spread(past.sum(weights.unsqueeze(-1) * x.unsqueeze(1)))
