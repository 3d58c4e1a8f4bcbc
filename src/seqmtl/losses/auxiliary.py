"""The loss of SmallHeads' auxiliary heads (Wang et al., WWW 2022, https://doi.org/10.1145/3485447.3512021).

L = λ Σ_t mean_B BCE(a_t, y_t)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Output, Schema


class Auxiliary(nn.Module):
    """Cross-entropy of each task's auxiliary log-odds with the task's own labels.

    Args:
        weight: λ.

    Shapes: extras["auxiliary"], y (B,T) → (T,).

    Raises:
        SeqmtlError: a negative weight.
    """

    needs = frozenset({"auxiliary"})
    works_with = "smallheads"

    def __init__(self, schema: Schema, weight: float = 0.5) -> None:
        super().__init__()
        if weight < 0:
            raise SeqmtlError(
                f"loss.terms.auxiliary.weight={weight} must not be negative; 0 leaves the small heads out of the loss"
            )
        self.weight = weight

    def forward(self, output: Output, y: Tensor) -> Tensor:
        logits = at_least_float32(output.extras["auxiliary"])  # (B,T)
        return self.weight * F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), reduction="none").mean(0)  # (T,)
