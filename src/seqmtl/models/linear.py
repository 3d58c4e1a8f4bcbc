"""The plain head: the log-odds of each task are linear in its tower's output (AITM eq. 10 and most others)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.nn.mlp import ParallelLinear
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Features, Output, Schema


class Linear(nn.Module):
    """logit_t = w_t·h_t + b_t, in float32 also under autocast: half precision would tie the scores of thousands of rows.

    Shapes: h (B,T,H) → logits (B,T).
    """

    def __init__(self, schema: Schema, dim: int, width: int, z_width: int) -> None:
        super().__init__()
        self.linear = ParallelLinear(len(schema.tasks), width, 1)

    def forward(self, h: Tensor, z: Tensor, features: Features) -> Output:
        with torch.autocast(h.device.type, enabled=False):
            return Output(self.linear(at_least_float32(h)).squeeze(-1))
