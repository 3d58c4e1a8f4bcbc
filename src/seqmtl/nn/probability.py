"""Probabilities as log-odds. What multiplies or compares probabilities does it in float32 at least, also under autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()


def logit_and(a: Tensor, b: Tensor) -> Tensor:
    """Log-odds of the product of two probabilities that are given as log-odds; exact at both ends.

    1/p - 1 = e^-a + e^-b + e^-(a+b), where log p - log(1 - p) would be NaN as soon as p rounds to 1.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    return -torch.logsumexp(torch.stack(torch.broadcast_tensors(-a, -b, -a - b)), 0)


def probabilities(logits: Tensor) -> Tensor:
    """sigma(logits) in float32 at least: half precision turns rates of 2e-4 into ties."""
    return at_least_float32(logits).sigmoid()


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension in float32 at least."""
    return at_least_float32(scores).softmax(-1)
