"""Binary cross-entropy of every task over all impressions (AITM, KDD 2021, https://arxiv.org/abs/2105.08489, eq. 11).

L = Σ_t w_t · mean_B( softplus(o_t) - y_t o_t )
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Output, Schema


class BCE(nn.Module):
    """The mean over the batch for each task, in nats.

    Args:
        weights: w_t, one for each task; None: 1.

    Shapes: logits, y (B,T) → (T,), whose sum is the loss.

    Raises:
        SeqmtlError: another number of weights than of tasks.

    *Differs*: from the log-odds, where AITM's code clips probabilities at 1e-7.
    """

    weights: Tensor

    def __init__(self, schema: Schema, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        tasks = schema.task_names
        if weights is not None and len(weights) != len(tasks):
            raise SeqmtlError(f"loss.terms.bce.weights has {len(weights)} entries for the {len(tasks)} tasks {', '.join(tasks)}")
        self.register_buffer("weights", torch.tensor(weights or [1.0] * len(tasks)), persistent=False)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        logits = at_least_float32(output.logits)
        per_task = F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none").mean(0)  # (T,)
        return self.weights * per_task
