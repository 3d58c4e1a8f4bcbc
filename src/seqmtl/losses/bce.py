"""Binary cross-entropy of every task over all impressions (AITM, KDD 2021, https://arxiv.org/abs/2105.08489, eq. 11).

L = Σ_t w_t · mean_B( c_t y_t softplus(-o_t) + (1 - y_t) softplus(o_t) )
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Output, Schema


def for_each_task(schema: Schema, values: Sequence[float], term: str, option: str) -> Tensor:
    """A term's option that has one value for each task: (T,).

    Raises:
        SeqmtlError: another number of values than of tasks, or a negative one.
    """
    tasks = schema.task_names
    if len(values) != len(tasks):
        names = ", ".join(tasks)
        raise SeqmtlError(
            f"{option} of the {term} loss has {len(values)} entries for the {len(tasks)} tasks {names}; give one for each"
        )
    if any(value < 0 for value in values):
        raise SeqmtlError(f"{option} of the {term} loss must not be negative, but are {list(values)}")
    return torch.tensor(values, dtype=torch.float32)


class BCE(nn.Module):
    """The mean over the batch for each task, in nats.

    Args:
        weights: w_t, one for each task; None: 1.
        pos_weight: c_t, how many times a positive row counts, one for each task; None: once.
        reduction: over tasks, `sum` or `mean`, which divides by T (MTReclib's).

    Shapes: logits, y (B,T) → (T,), whose sum is the loss.

    Raises:
        SeqmtlError: another number of weights than of tasks, or an unknown reduction.

    *Differs*: from the log-odds, where AITM's code clips probabilities at 1e-7.
    """

    weights: Tensor
    pos_weight: Tensor | None

    def __init__(
        self,
        schema: Schema,
        weights: Sequence[float] | None = None,
        pos_weight: Sequence[float] | None = None,
        reduction: str = "sum",
    ) -> None:
        super().__init__()
        n = len(schema.tasks)
        if reduction not in ("sum", "mean"):
            raise SeqmtlError(f"reduction of the bce loss must be sum or mean, not '{reduction}'")
        w = for_each_task(schema, [1.0] * n if weights is None else weights, "bce", "weights")
        self.register_buffer("weights", w / n if reduction == "mean" else w, persistent=False)
        c = None if pos_weight is None else for_each_task(schema, pos_weight, "bce", "pos_weight")
        self.register_buffer("pos_weight", c, persistent=False)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        logits = at_least_float32(output.logits)
        y = y.to(logits.dtype)
        per_row = F.binary_cross_entropy_with_logits(logits, y, pos_weight=self.pos_weight, reduction="none")  # (B,T)
        return self.weights * per_row.mean(0)  # (T,)
