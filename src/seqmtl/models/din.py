"""DIN: Deep Interest Network for Click-Through Rate Prediction (Zhou et al., KDD 2018, https://arxiv.org/abs/1706.06978).

    z = [v, Σ_i a(e, x_i) x_i]   eq. 3; v the embeddings of all fields, e the row's own item, x_i the past ones

a is the activation unit of figure 2 (nn/activation_unit.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.activation_unit import ActivationUnit
from seqmtl.nn.histories import main_history, target
from seqmtl.nn.ragged import Ragged
from seqmtl.types import Features, Schema


class DIN(nn.Module):
    """A bottom: past items weighed by how much they matter to the row's own. It reads the main history.

    Args:
        dims: hidden layers of the activation unit.
        activation: of these layers: sigmoid, dice, prelu or relu.
        softmax: whether the weights of a row sum to 1.
        scale: whether scores are divided by sqrt(D).

    Shapes: Features → z (B,1,F·D + D). A row without past items has 0 for their sum.

    Raises:
        SeqmtlError: there is no history, or several and none is the main one; an unknown activation.

    *Differs*: the defaults are those of the authors' code, dims, sigmoid, softmax and scale included. The paper has no softmax
    (`softmax=False`), so that many items of one kind weigh more than one, no scale, and Dice (`activation="dice"`). The network
    above z is the trunk's. With the softmax, scores have no bias, as a softmax takes it out.
    """

    needs_histories = True

    def __init__(
        self,
        schema: Schema,
        dim: int,
        dims: Sequence[int] = (80, 40),
        activation: str = "sigmoid",
        softmax: bool = True,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.histories = main_history(schema, "DIN")
        self.width = len(schema.fields) * dim + dim
        self.unit = ActivationUnit(dim, dims, activation, bias=not softmax)
        self.softmax, self.scale = softmax, dim**-0.5 if scale else 1.0

    def forward(self, features: Features) -> Tensor:
        items, mask = features.past[self.histories[0]]  # (B,L,D), (B,L)
        ragged = Ragged.of(mask)
        e, x = target(features).index_select(0, ragged.rows), ragged.take(items)  # (R,D), (N,D)
        a = self.unit(e, x, ragged.row) * self.scale  # (N,)
        a = ragged.softmax(a) if self.softmax else a
        interest = ragged.spread(ragged.sum(a.to(x.dtype).unsqueeze(1) * x))  # (B,D) eq. 3
        return torch.cat([features.fields.flatten(1), interest], 1).unsqueeze(1)
