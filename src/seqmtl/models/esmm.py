"""ESMM: Entire Space Multi-Task Model (Ma et al., SIGIR 2018, https://arxiv.org/abs/1804.07931).

    p_t = p_u · σ(z_t) for the parent u of t,   p_t = σ(z_t) where there is none   (eq. 1: pCTCVR = pCTR · pCVR)

Unusual: a head over any trunk, and the product is taken in log-odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from seqmtl.nn.graph import resolve_parents
from seqmtl.nn.mlp import ParallelLinear
from seqmtl.nn.probability import at_least_float32, logit_and
from seqmtl.types import Features, Output, Schema


class ESMM(nn.Module):
    """A head: each task's tower tells the log-odds z_t of its step given that the step before it happened.

    With a loss over all impressions alone, z_t of a child is trained through the product only, as the paper does.

    Args:
        parents: index of each task's parent or None, instead of the schema's.

    Shapes: h (B,T,H) → logits (B,T), in float32 also under autocast. `extras["conditional"]` (B,T): z, for a root its log-odds.

    Raises:
        SeqmtlError: there are several tasks and none has a parent.

    *Differs*: any forest of steps instead of click and purchase; a single task is an ordinary model of that task.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"conditional"})

    def __init__(self, schema: Schema, dim: int, width: int, z_width: int, parents: Sequence[int | None] | None = None) -> None:
        super().__init__()
        self.parents = resolve_parents(schema, parents, "the product of conditional steps", "model.head.parents", alone=True)
        self.linear = ParallelLinear(len(self.parents), width, 1)

    def forward(self, h: Tensor, z: Tensor, features: Features) -> Output:
        with torch.autocast(h.device.type, enabled=False):
            conditional = self.linear(at_least_float32(h)).squeeze(-1)  # (B,T)
            logits: list[Tensor] = []
            for u, z_t in zip(self.parents, conditional.unbind(1), strict=True):
                logits.append(z_t if u is None else logit_and(logits[u], z_t))  # eq. 1
        return Output(torch.stack(logits, 1), {"conditional": conditional})
