"""APEM's dependence learning loss (2023, https://arxiv.org/abs/2301.02494, eq. 21 and 23).

L = σ · Σ_{u→t} mean_B ( (p_u - p_t) - (y_u - y_t) )²
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.graph import at_children, edges, resolve_parents
from seqmtl.nn.probability import probabilities
from seqmtl.types import Output, Schema


class Dependence(nn.Module):
    """Squared error of p_u - p_t, the probability that the parent step happens and its child does not: a proper score of it.

    Args:
        sigma: weight. The paper prints none; 0 is its ablation.
        parents: index of each task's parent or None, instead of the schema's.

    Shapes: logits, y (B,T) → (T,), each edge's value at its child.

    Raises:
        SeqmtlError: no task has a parent.

    *Differs*: no importance weights, as the theorems' hold 1 where training is over all impressions. Eq. 4 has the sign reversed.
    """

    parent: Tensor
    child: Tensor

    def __init__(self, schema: Schema, sigma: float = 1.0, parents: Sequence[int | None] | None = None) -> None:
        super().__init__()
        self.sigma = sigma
        parent, child = edges(resolve_parents(schema, parents, "the dependence loss", "loss.terms.dependence.parents"))
        self.register_buffer("parent", torch.tensor(parent), persistent=False)
        self.register_buffer("child", torch.tensor(child), persistent=False)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        p = probabilities(output.logits)  # (B,T)
        predicted, happened = (x[:, self.parent] - x[:, self.child] for x in (p, y.to(p.dtype)))  # (B,edges)
        return at_children(self.sigma * (predicted - happened).square().mean(0), self.child, p.shape[1])
