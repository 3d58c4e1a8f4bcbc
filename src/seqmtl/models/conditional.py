"""Layers whose parameters depend on task and behaviour, by what hypernetworks say (DTRN, CIKM 2023, eq. 6 and section 5.2.2).

    CLN_{t,b}(x) = γ_{t,b} γ (x - μ)/δ + β_{t,b} + β                                           eq. 6
    W_{t,b} = W ⊙ (1 + Δ_{t,b})                                                                Table 6, the other injections

Rows stand behaviour after behaviour, `counts` (M,) of each, and have a place for every task: (N,T,…), or (N,1,…) as long as the
tasks do not differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.probability import at_least_float32


def conditional_norm(norm: nn.LayerNorm, x: Tensor, given: Sequence[Tensor] | None, counts: Sequence[int]) -> Tensor:
    """Eq. 6, given γ_{t,b} and β_{t,b} (M,T,D): (N,1 or T,D) → (N,T,D). Given None: the plain norm."""
    x = at_least_float32(x)
    if given is None:
        plain: Tensor = norm(x)
        return plain
    gamma, beta = given
    with torch.autocast(x.device.type, enabled=False):
        parts = F.layer_norm(x, norm.normalized_shape, eps=norm.eps).split(list(counts))
        # Behaviour after behaviour: γ and β of every row would be as large as what comes out.
        pairs = zip(gamma * norm.weight, beta + norm.bias, parts, strict=True)
        return torch.cat([torch.addcmul(shift, scale, part) for scale, shift, part in pairs])


def conditional_linear(layer: nn.Linear, x: Tensor, delta: Tensor | None, counts: Sequence[int]) -> Tensor:
    """A layer with W ⊙ (1 + Δ_{t,b}), and its bias likewise: (N,1 or T,in) → (N,T,out).

    `delta` (M,T,numbers of W, then of b); None: the plain layer, (N,G,in) → (N,G,out).
    """
    if delta is None:
        plain: Tensor = layer(x)
        return plain
    size = layer.weight.numel()
    weight = layer.weight * (1 + delta[..., :size].unflatten(-1, layer.weight.shape))  # (M,T,out,in)
    bias = None if layer.bias is None else layer.bias * (1 + delta[..., size:])  # (M,T,out)
    made = []
    for b, part in enumerate(x.split(list(counts))):  # one product for all would pad behaviours to the longest
        out = (part.expand(-1, delta.shape[1], -1).transpose(0, 1) @ weight[b].mT).transpose(0, 1)  # (n,T,out)
        made.append(out if bias is None else out + bias[b])
    return torch.cat(made)
