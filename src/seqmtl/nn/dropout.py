"""Dropout whose mask is drawn four entries at a time: on a CPU torch draws one after the other, which costs more than the layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16  # a rate is rounded to a multiple of 1/65536, and what is kept is scaled by the rounded one: no bias in float32


class Dropout(nn.Dropout):
    """Sets entries to 0 with probability p and scales the others to the same mean, in training only: (…) → (…)."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * LEVELS)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < LEVELS:
            return super().forward(x)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        drawn = words.view(torch.int16)[: x.numel()].view(x.shape)  # each of its values as likely
        kept = (drawn >= dropped - LEVELS // 2).to(x.dtype)
        return x * kept.mul_(LEVELS / (LEVELS - dropped))
