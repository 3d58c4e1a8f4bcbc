"""TRM, the task-specific representation refinement module of DTRN (Liu et al., CIKM 2023, https://doi.org/10.1145/3583780.3614837).

refine_t = σ(MLP_t(raw_t)),   r_t = raw_t ⊙ refine_t                                       eq. 9
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from seqmtl.nn.mlp import MLP, ParallelLinear
from seqmtl.nn.options import at_least, one_of
from seqmtl.types import Features, Schema

GATES = {"sigmoid": 1.0, "2sigmoid": 2.0}


class TRM(nn.Module):
    """A bottom around another: gates of each task on all numbers of the other's representation.

    Args:
        inner: the other bottom; finished as inner(schema, dim). It gives one representation (G = 1) or one for each task.
        hidden: width of the hidden layer; None: W/4.
        gate: sigmoid, or 2sigmoid: around 1 at the start, not 1/2.

    Shapes: inner's z (B,1 or T,W) → z (B,T,W).

    Raises:
        SeqmtlError: an unknown gate, or a width below 1.
    """

    def __init__(
        self, schema: Schema, dim: int, inner: Callable[..., Any], hidden: int | None = None, gate: str = "sigmoid"
    ) -> None:
        super().__init__()
        one_of("TRM: gate", gate, GATES)
        at_least("TRM: hidden", hidden, 1)
        self.inner = inner(schema, dim)
        self.histories: tuple[str, ...] = getattr(self.inner, "histories", schema.history_names)
        self.provides: frozenset[str] = frozenset(getattr(self.inner, "provides", ()))
        self.width, self.scale = self.inner.width, GATES[gate]
        self.hidden = MLP(self.width, [max(1, self.width // 4) if hidden is None else hidden], n=len(schema.tasks))
        self.out = ParallelLinear(len(schema.tasks), self.hidden.width, self.width)

    def forward(self, features: Features) -> Tensor:
        raw: Tensor = self.inner(features)  # (B,G,W)
        refine = self.scale * self.out(self.hidden(raw)).sigmoid()  # (B,T,W)
        r: Tensor = raw * refine
        return r
