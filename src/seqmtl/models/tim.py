"""TIM, the task-specific interest module of DTRN: Deep Task-specific Bottom Representation Network for Multi-Task Recommendation
(Liu et al., CIKM 2023, https://doi.org/10.1145/3583780.3614837).

    enc_{t,b} = CLN_{t,b}(o + FFN(o)),   o  = CLN_{t,b}(X_b + MHSA(X_b))                       eq. 7
    dec_{t,b} = CLN_{t,b}(o' + FFN(o')), o' = CLN_{t,b}(e + MHA(e, enc_{t,b}))
    interest_t = [dec_{t,1}, …, dec_{t,M}],   raw_t = [fields, interest_t]                     eq. 8

One Transformer reads every behaviour b for every task t; what differs is in hypernetworks.py. All pairs are computed at once: the
items of all behaviours are one list, and until the first norm the tasks are one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.models.conditional_transformer import INJECTIONS, ConditionalLayer
from seqmtl.models.hypernetworks import Hypernetworks
from seqmtl.nn.histories import all_histories, target
from seqmtl.nn.options import at_least, divides, one_of
from seqmtl.nn.ragged import Ragged
from seqmtl.types import Features, Schema


class TIM(nn.Module):
    """A bottom: an interest for each pair of task and behaviour; docs/models.md tells what the paper leaves open.

    Args:
        heads, dropout: of the attentions; of what they and the feed-forward layers add.
        ffn, hyper_hidden: hidden widths of the feed-forward layers and of the hypernetworks; None: 4D and D.
        injection: what the hypernetworks change: ln (the paper's), qkv, ffn1 or ffn2 (Table 6).
        gamma_param: what they make for a norm: direct, γ_{t,b} of eq. 6; residual, γ_{t,b} - 1.
        empty: the interest of no items: residual (attention adds 0), zero, or null_token (a learned item before every history).
        positions: none (eq. 7), or learned: added to the items, counted from the oldest as DMT does.

    Shapes: Features → z (B,T,W), W = (F+M)·D. Extras: `empty_<history>` () the share of rows that have none.

    Raises:
        SeqmtlError: the data have no histories, an unknown choice, or heads that do not divide the width.
    """

    needs_histories = True

    def __init__(
        self,
        schema: Schema,
        dim: int,
        heads: int = 4,
        ffn: int | None = None,
        hyper_hidden: int | None = None,
        dropout: float = 0.0,
        injection: str = "ln",
        gamma_param: str = "direct",
        empty: str = "residual",
        positions: str = "none",
    ) -> None:
        super().__init__()
        one_of("TIM: injection", injection, INJECTIONS)
        one_of("TIM: gamma_param", gamma_param, ("direct", "residual"))
        one_of("TIM: empty", empty, ("residual", "zero", "null_token"))
        one_of("TIM: positions", positions, ("none", "learned"))
        at_least("TIM: ffn", ffn, 1)
        at_least("TIM: hyper_hidden", hyper_hidden, 1)
        divides(heads, dim)
        self.histories = all_histories(schema, "TIM")
        self.width = (len(schema.fields) + len(self.histories)) * dim
        self.heads, self.empty = heads, empty
        self.encoder, self.decoder = (ConditionalLayer(dim, 4 * dim if ffn is None else ffn, dropout) for _ in range(2))
        behaviours, parts = len(self.histories), INJECTIONS[injection]
        size = self.encoder.size_of(parts[0])
        hidden, tasks = dim if hyper_hidden is None else hyper_hidden, len(schema.tasks)
        self.hypernetworks = Hypernetworks(
            tasks, behaviours, dim, hidden, parts, size, injection == "ln", gamma_param == "residual"
        )
        longest = max(h.max_len for h in schema.histories) + (empty == "null_token")
        self.null = nn.Parameter(0.01 * torch.randn(behaviours, dim)) if empty == "null_token" else None
        self.positions = nn.Parameter(0.01 * torch.randn(longest, dim)) if positions == "learned" else None

    def forward(self, features: Features) -> Tensor:
        e, (x, ragged, items) = target(features), self._items(features)  # (B,D), (N,1,D)
        rows = [len(e)] * len(self.histories)
        e = e.repeat(len(self.histories), 1).unsqueeze(1)  # (M·B,1,D)
        of_encoder, of_decoder = self.hypernetworks()  # below, tasks that differ are further heads

        def attend_items(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return ragged.self_attention(q.flatten(1), k.flatten(1), v.flatten(1), self.heads * k.shape[1]).reshape(k.shape)

        def attend_target(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q = q.index_select(0, ragged.rows).expand(-1, k.shape[1], -1)
            out = ragged.attention(q.flatten(1), k.flatten(1), v.flatten(1), self.heads * k.shape[1])
            return ragged.spread(out).unflatten(1, k.shape[1:])

        enc = self.encoder(x, x, attend_items, of_encoder, items, items)  # (N,T,D)
        dec = self.decoder(e, enc, attend_target, of_decoder, rows, items)  # (M·B,T,D)
        if self.empty == "zero":
            dec = dec * ragged.spread(ragged.lengths.new_ones(len(ragged.rows), 1, 1))
        interest = dec.unflatten(0, (len(self.histories), -1)).permute(1, 2, 0, 3).flatten(2)  # (B,T,M·D) eq. 8
        fields = features.fields.flatten(1).unsqueeze(1).expand(-1, interest.shape[1], -1)
        return torch.cat([fields, interest], 2)

    def _items(self, features: Features) -> tuple[Tensor, Ragged, list[int]]:
        """The items of all histories, one behaviour after the other: (N,1,D), and how many each has."""
        found, lists = [], []
        for b, name in enumerate(self.histories):
            items, mask = features.past[name]
            features.extras[f"empty_{name}"] = (~mask.any(1)).sum() / max(1, len(mask))
            if self.null is not None:
                items = torch.cat([self.null[b].expand(len(items), 1, -1), items], 1)
                mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
            found.append(Ragged.of(mask))
            lists.append(found[-1].take(items))
        x, ragged = torch.cat(lists), Ragged.cat(found)
        if self.positions is not None:
            x = x + F.embedding(ragged.position, self.positions)
        return x.unsqueeze(1), ragged, [len(part) for part in found]
