"""Layers whose parameters depend on task and behaviour, by what hypernetworks say (DTRN, CIKM 2023, eq. 6 and section 5.2.2).

    CLN_{t,b}(x) = γ_{t,b} γ (x - μ)/δ + β_{t,b} + β                                           eq. 6
    W_{t,b} = W ⊙ (1 + Δ_{t,b})                                                                Table 6, the other injections

Rows stand behaviour after behaviour, and each has a place for every task: (N,T,…), or (N,1,…) as long as the tasks do not differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.probability import at_least_float32


class Behaviours:
    """Whose behaviour each row is: the first counts[0] rows are of the first behaviour, and so on."""

    def __init__(self, counts: Sequence[int], like: Tensor) -> None:
        self.counts = list(counts)
        repeats = torch.tensor(self.counts, device=like.device)
        eye = torch.eye(len(counts), dtype=at_least_float32(like).dtype, device=like.device)
        self.one_hot = eye.repeat_interleave(repeats, 0, output_size=sum(counts))  # (N,M)

    def of(self, table: Tensor) -> Tensor:
        """What each row's behaviour has in a table: (M,…) → (N,…).

        As a matrix product: the gradient of an index would add all rows to M places, where they wait for each other.
        """
        return (self.one_hot @ table.flatten(1)).unflatten(1, table.shape[1:])


def conditional_norm(norm: nn.LayerNorm, x: Tensor, given: Sequence[Tensor] | None, rows: Behaviours) -> Tensor:
    """Eq. 6, given γ_{t,b} and β_{t,b} (M,T,D): (N,1 or T,D) → (N,T,D). Given None: the plain norm."""
    x = at_least_float32(x)
    if given is None:
        plain: Tensor = norm(x)
        return plain
    gamma, beta = given
    with torch.autocast(x.device.type, enabled=False):
        scale, shift = rows.of(gamma * norm.weight), rows.of(beta + norm.bias)  # (N,T,D)
        return torch.addcmul(shift, scale, F.layer_norm(x, norm.normalized_shape, eps=norm.eps))


def conditional_linear(layer: nn.Linear, x: Tensor, delta: Tensor | None, rows: Behaviours) -> Tensor:
    """A layer with W ⊙ (1 + Δ_{t,b}), and its bias likewise: (N,1 or T,in) → (N,T,out).

    `delta` (M,T,numbers of W, then of b); None: the plain layer, (N,G,in) → (N,G,out).
    """
    if delta is None:
        plain: Tensor = layer(x)
        return plain
    tasks, size = delta.shape[1], layer.weight.numel()
    weight = layer.weight * (1 + delta[..., :size].unflatten(-1, layer.weight.shape))  # (M,T,out,in)
    # A product for each behaviour: one for all would pad them to the longest.
    parts = [of_one.expand(-1, tasks, -1).transpose(0, 1) for of_one in x.split(rows.counts)]  # M of (T,n,in)
    out = torch.cat([part @ w.mT for part, w in zip(parts, weight, strict=True)], 1).transpose(0, 1)  # (N,T,out)
    if layer.bias is None:
        return out
    return out + rows.of(layer.bias * (1 + delta[..., size:])).to(out.dtype)
