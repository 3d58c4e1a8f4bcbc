"""AITM's behavioural expectation calibrator (Xi et al., KDD 2021, https://arxiv.org/abs/2105.08489, eq. 12).

L = α · mean_B Σ_{u→t} max(p_t - p_u, 0)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.graph import at_children, edges, resolve_parents
from seqmtl.nn.probability import probabilities
from seqmtl.types import Output, Schema


class Calibrator(nn.Module):
    """Punishes a step that is held more likely than the step before it.

    Args:
        alpha: weight; 0.6 in the paper and its code (0.3 in AITM_standard).
        parents: index of each task's parent or None, instead of the schema's.

    Shapes: logits (B,T) → (T,), each edge's value at its child. The mean over the batch: two ports sum, which is 2000 times as
    strong. No gradient is stopped.

    Raises:
        SeqmtlError: no task has a parent.
    """

    parent: Tensor
    child: Tensor

    def __init__(self, schema: Schema, alpha: float = 0.6, parents: Sequence[int | None] | None = None) -> None:
        super().__init__()
        self.alpha = alpha
        parent, child = edges(resolve_parents(schema, parents, "the calibrator", "loss.terms.calibrator.parents"))
        self.register_buffer("parent", torch.tensor(parent), persistent=False)
        self.register_buffer("child", torch.tensor(child), persistent=False)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        p = probabilities(output.logits)  # (B,T)
        violations = (p[:, self.child] - p[:, self.parent]).relu().mean(0)  # (edges,)
        return at_children(self.alpha * violations, self.child, p.shape[1])
