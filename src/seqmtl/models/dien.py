"""DIEN: Deep Interest Evolution Network for Click-Through Rate Prediction (Zhou et al., AAAI 2019,
https://arxiv.org/abs/1809.03672).

    h_i = GRU(x_i, h_{i-1})                                        interests, read out of the past items x_1..x_n
    a = softmax_i(score(e, h_i))                                   eq. 8, how much each matters to the row's own item e
    z = [v, h'_n],   h'_i = AUGRU(h_i, a_i, h'_{i-1})              eq. 12, v the embeddings of all fields

and, if wanted, an auxiliary loss that makes h_i tell x_{i+1} from any other item (eq. 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from seqmtl.errors import SeqmtlError
from seqmtl.models.augru import AUGRU, Steps, xavier_gates
from seqmtl.nn.activation_unit import ActivationUnit
from seqmtl.nn.histories import main_history, target
from seqmtl.nn.probability import at_least_float32
from seqmtl.nn.ragged import Ragged
from seqmtl.types import Features, Schema


class DIEN(nn.Module):
    """A bottom: how the interest in the row's own item evolved. It reads the main history.

    Args:
        dims: hidden layers of the attention.
        augru: paper or official, see `AUGRU`.
        auxiliary: weight of the auxiliary loss; 0: it has no network.
        auxiliary_dims: hidden layers of its network.
        extra_sum: z also has Σ_i x_i and e ⊙ Σ_i x_i, as the authors' code.

    Shapes: Features → z (B,1,F·D + D), or (B,1,F·D + 3D) with extra_sum. A row without past items has 0 for the interest.
    In training `extras["loss_next_item"]` (), weighted, if there is one.

    Raises:
        SeqmtlError: there is no history, or several and none is the main one; an unknown form of AUGRU; a weight below 0; no
            second item to hold against the next one.

    *Differs*: attention by an MLP over [q, h, q - h, q ⊙ h], q = PReLU(e W + b), as in the authors' code; the paper has a bilinear
    form. Scores under the softmax have no bias, as it takes them out. The auxiliary loss is off, as DTRN's comparison does not
    mention it (code: weight 1); it scores by an MLP, as the code, and is a mean over the steps that have a next item, where the
    paper sums those of a row. The fused GRU of a GPU has no second derivatives: step=maml needs first_order=true there.
    """

    needs_histories = True

    def __init__(
        self,
        schema: Schema,
        dim: int,
        dims: Sequence[int] = (80, 40),
        augru: str = "paper",
        auxiliary: float = 0.0,
        auxiliary_dims: Sequence[int] = (100, 50),
        extra_sum: bool = False,
    ) -> None:
        super().__init__()
        self.histories = main_history(schema, "DIEN")
        self.width = len(schema.fields) * dim + (3 if extra_sum else 1) * dim
        self.extra_sum, self.weight = extra_sum, auxiliary
        self.gru = nn.GRU(dim, dim)
        xavier_gates(self.gru)
        self.query = nn.Sequential(_dense(dim, dim), nn.PReLU(dim))
        self.unit = ActivationUnit(dim, dims, bias=False)  # the softmax would take a bias out
        self.augru = AUGRU(dim, augru)
        if auxiliary < 0:
            raise SeqmtlError(f"model.bottom.auxiliary={auxiliary} is a weight, 0 or more")
        field = next(h.field for h in schema.histories if h.name == self.histories[0])
        self.size = next((f.size for f in schema.fields if f.name == field), 0)
        if auxiliary and self.size == 1:
            raise SeqmtlError(f"field '{field}' has one item and no other to hold against it; give model.bottom.auxiliary=0")
        scorer = (part for a, b in pairwise([2 * dim, *auxiliary_dims, 1]) for part in (_dense(a, b), nn.Sigmoid()))
        self.next_item = nn.Sequential(*scorer)[:-1] if auxiliary else None

    def forward(self, features: Features) -> Tensor:
        items, mask = features.past[self.histories[0]]  # (B,L,D), (B,L)
        ragged = Ragged.of(mask)
        steps, e, x = Steps(ragged), target(features), ragged.take(items)  # (B,D), (N,D)
        # A GRU refuses a batch without any item.
        h = self.gru(PackedSequence(steps.pack(x), steps.sizes))[0].data if len(x) else x  # (N,D), in the order of the steps
        q = self.query(e.index_select(0, ragged.rows))  # (R,D)
        a = ragged.softmax(self.unit(q, steps.unpack(h), ragged.row))  # (N,) eq. 8
        interest = self.augru(h, steps.pack(a), steps)  # (R,D) eq. 12
        parts = [features.fields.flatten(1), ragged.spread(interest)]
        if self.extra_sum:
            total = ragged.spread(ragged.sum(x))  # (B,D)
            parts += [total, e * total]
        if self.next_item is not None and self.training:
            ids = ragged.take(features.past_ids[self.histories[0]])  # (N,)
            features.extras["loss_next_item"] = self.weight * self._auxiliary(features, ragged, steps.unpack(h), x, ids)
        return torch.cat(parts, 1).unsqueeze(1)

    def _auxiliary(self, features: Features, ragged: Ragged, h: Tensor, x: Tensor, ids: Tensor) -> Tensor:
        """Cross-entropy of the next item and one drawn from all others, over the steps that have a next item; 0 if none has."""
        assert self.next_item is not None
        assert features.lookup_past is not None
        now = (ragged.position + 1 < ragged.lengths[ragged.row]).nonzero().squeeze(1)  # (S,)
        other = torch.randint(self.size - 1, now.shape, device=ids.device)
        other += other >= ids[now + 1]  # any item but the next one, evenly
        drawn = features.lookup_past(self.histories[0], other)  # (S,D)
        h, x = h.index_select(0, now), x.index_select(0, now + 1)  # (S,D)
        pairs = torch.stack([torch.cat([h, candidate], 1) for candidate in (x, drawn)])  # (2,S,2D)
        yes, no = at_least_float32(self.next_item(pairs).squeeze(-1))  # (S,) each
        return (F.softplus(-yes) + F.softplus(no)).sum() / max(1, len(now))  # eq. 6


def _dense(width_in: int, width_out: int) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
