"""Focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, https://arxiv.org/abs/1708.02002, eq. 5).

L = Σ_t w_t · mean_B( -α_y (1 - q)^γ log q ),   q the probability of what happened, α_1 = α, α_0 = 1 - α
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.losses.bce import for_each_task
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Output, Schema


class Focal(nn.Module):
    """Cross-entropy in which rows that are already told right count little.

    Args:
        gamma: γ; 0 is the cross-entropy.
        alpha: weight of positive rows, one for all tasks or one for each; None: 1 for all rows.
        weights: w_t, one for each task; None: 1.

    Shapes: logits, y (B,T) → (T,), whose sum is the loss.

    Raises:
        SeqmtlError: gamma below 0, alpha outside of (0,1), or another number of them than of tasks.

    *Differs*: a mean over the rows, where the paper divides by the number of its positive boxes. No proper score: at γ > 0 its
    minimum is not at the true probability, so calibration suffers.
    """

    weights: Tensor
    alpha: Tensor | None

    def __init__(
        self,
        schema: Schema,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = 0.25,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        n = len(schema.tasks)
        given = [alpha] * n if isinstance(alpha, int | float) else alpha
        if gamma < 0:
            raise SeqmtlError(f"gamma={gamma} of the focal loss must not be below 0")
        if given is not None and not all(0 < a < 1 for a in given):
            raise SeqmtlError(f"alpha={alpha} of the focal loss must lie between 0 and 1 (null: all rows count alike)")
        self.gamma = gamma
        w = for_each_task(schema, [1.0] * n if weights is None else weights, "focal", "weights")
        self.register_buffer("weights", w, persistent=False)
        a = None if given is None else for_each_task(schema, given, "focal", "alpha")
        self.register_buffer("alpha", a, persistent=False)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        logits = at_least_float32(output.logits)
        happened = y > 0
        s = torch.where(happened, logits, -logits)  # (B,T) log-odds of what happened
        # (1 - q)^γ as a power of e: 1 - σ(s) is 0 from s = 17 on, where a power has no gradient.
        per_row = -(self.gamma * F.logsigmoid(-s)).exp() * F.logsigmoid(s)  # eq. 4
        if self.alpha is not None:
            per_row = per_row * torch.where(happened, self.alpha, 1 - self.alpha)  # eq. 5
        return self.weights * per_row.mean(0)  # (T,)
