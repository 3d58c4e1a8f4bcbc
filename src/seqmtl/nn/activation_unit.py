"""DIN's activation unit, which DIEN and DFN use too (Zhou et al., KDD 2018, https://arxiv.org/abs/1706.06978, figure 2).

    score(q, x) = MLP([q, x, q - x, q ⊙ x])

Unusual: the first layer is taken apart, since what it does to the query is the same for all items of a row:
[q, x, q - x, q ⊙ x] W = q (W_1 + W_3) + x (W_2 - W_3) + (q ⊙ x) W_4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.options import one_of


class Dice(nn.Module):
    """DIN, eq. 4 and 5: s p(s) + a s (1 - p(s)), p the sigmoid of the normalised s; (N,H) → (N,H).

    The statistics are those of the items in the batch, in evaluation running ones.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.slope = nn.Parameter(torch.zeros(width))

    def forward(self, s: Tensor) -> Tensor:
        # A batch with one item, or none, has no variance.
        p = torch.sigmoid(self.norm(s) if len(s) > 1 or not self.training else self._running(s))
        return s * (p + self.slope * (1 - p))

    def _running(self, s: Tensor) -> Tensor:
        return F.batch_norm(s, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "sigmoid": lambda width: nn.Sigmoid(),
    "dice": Dice,
    "prelu": nn.PReLU,
    "relu": lambda width: nn.ReLU(),
}


class ActivationUnit(nn.Module):
    """How much a past item matters to a query.

    Args:
        dim: width of queries and items.
        dims: hidden layers.
        activation: of the hidden layers: sigmoid (the official code), dice, prelu or relu.
        bias: whether the score has one. Under a softmax it would change nothing and never be trained.

    Shapes: q (R,D), x (N,D), row (N,) the query of each item → (N,).

    Raises:
        SeqmtlError: an unknown activation.
    """

    def __init__(self, dim: int, dims: Sequence[int] = (80, 40), activation: str = "sigmoid", bias: bool = True) -> None:
        super().__init__()
        one_of("activation", activation, ACTIVATIONS)
        widths = [4 * dim, *dims, 1]
        layers = [nn.Linear(a, b, bias=bias or i < len(dims)) for i, (a, b) in enumerate(pairwise(widths))]
        self.activations = nn.ModuleList(ACTIVATIONS[activation](width) for width in dims)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.first, self.layers = layers[0], nn.ModuleList(layers[1:])

    def forward(self, q: Tensor, x: Tensor, row: Tensor) -> Tensor:
        w_1, w_2, w_3, w_4 = self.first.weight.chunk(4, 1)  # (H,D) each
        of_query = F.linear(q, w_1 + w_3, self.first.bias)  # (R,H)
        of_query, q = of_query.index_select(0, row), q.index_select(0, row)  # its gradient is faster than that of [row]
        s = of_query + F.linear(torch.cat([x, q * x], 1), torch.cat([w_2 - w_3, w_4], 1))  # (N,H)
        for activation, layer in zip(self.activations, self.layers, strict=True):
            s = layer(activation(s))
        scores: Tensor = s.squeeze(-1)
        return scores
