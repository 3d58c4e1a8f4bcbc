"""Multilayer perceptrons side by side.

Experts and towers of equal shape are n stacks of one layer: a matrix product in batch, not a loop in Python. Stacks that all read
the same input are one product with a wider matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.dropout import Dropout
from seqmtl.nn.options import one_of


def xavier(parameter: Tensor, fan_in: int, fan_out: int) -> None:
    """Uniform within sqrt(6 / (fan_in + fan_out)): the fans are those of one stack, which the shape of n stacks does not tell."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    nn.init.uniform_(parameter, -bound, bound)


class ParallelLinear(nn.Module):
    """n linear layers of equal shape. Weights xavier_uniform for each, bias 0 (Keras' Dense).

    Shapes: (…,G,in) with G = 1 (all read the same) or n (each its own) → (…,n,out).
    """

    def __init__(self, n: int, width_in: int, width_out: int, bias: bool = True) -> None:
        super().__init__()
        self.n, self.width_in, self.width_out = n, width_in, width_out
        self.weight = nn.Parameter(torch.empty(n, width_out, width_in))
        self.bias = nn.Parameter(torch.zeros(n, width_out)) if bias else None
        xavier(self.weight, width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] == 1:
            bias = None if self.bias is None else self.bias.flatten()
            return F.linear(x.squeeze(-2), self.weight.flatten(0, 1), bias).unflatten(-1, (self.n, self.width_out))
        if x.shape[-2] != self.n:
            raise ValueError(f"{self.n} parallel layers cannot share {x.shape[-2]} inputs")
        rows = x.reshape(-1, self.n, self.width_in).transpose(0, 1)
        weight = self.weight.transpose(1, 2)
        out = torch.bmm(rows, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), rows, weight)
        return out.transpose(0, 1).unflatten(0, x.shape[:-2])


class ParallelLayerNorm(nn.Module):
    """LayerNorm with a gain and a bias for each of n stacks: (…,n,width) → (…,n,width)."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.n = n
        self.weight = nn.Parameter(torch.ones(n, width))
        self.bias = nn.Parameter(torch.zeros(n, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class ParallelBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all leading dimensions, for each of the n·width features: (…,n,width) → (…,n,width).

    A batch of one row has no variance: it takes the running statistics, and leaves them as they are.
    """

    def __init__(self, n: int, width: int) -> None:
        super().__init__(n * width)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.num_features)
        if len(rows) > 1 or not self.training:
            return super().forward(rows).view(x.shape)
        out = F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return out.view(x.shape)


NORMS = {"none": lambda n, width: nn.Identity(), "bn": ParallelBatchNorm, "ln": ParallelLayerNorm}


class MLP(nn.Module):
    """n stacks of [Linear → norm → ReLU → dropout] for each width of `dims`; without dims the identity.

    Args:
        width: of the input.
        dims: of the layers' outputs.
        n: number of stacks.
        dropout: one rate, or one for each layer.
        norm: none, bn or ln.

    Shapes: (…,G,width) with G = 1 or n → (…,n,dims[-1]).

    Raises:
        SeqmtlError: an unknown norm, or another number of dropout rates than of layers.
    """

    def __init__(
        self, width: int, dims: Sequence[int], n: int = 1, dropout: float | Sequence[float] = 0.0, norm: str = "none"
    ) -> None:
        super().__init__()
        one_of("norm", norm, NORMS)
        rates = [float(dropout)] * len(dims) if isinstance(dropout, int | float) else list(dropout)
        if len(rates) != len(dims):
            raise SeqmtlError(
                f"dropout {rates} has {len(rates)} rates for the {len(dims)} layers {list(dims)}; give one, or as many"
            )
        widths = [width, *dims]
        self.n, self.width = n, widths[-1]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(ParallelLinear(n, a, b), NORMS[norm](n, b), nn.ReLU(), Dropout(rate))
                for a, b, rate in zip(widths, dims, rates, strict=False)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out if len(self.layers) else out.expand(*x.shape[:-2], self.n, self.width)
