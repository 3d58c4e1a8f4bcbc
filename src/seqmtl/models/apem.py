"""APEM: adaptive pattern extraction multi-task learning (2023, https://arxiv.org/abs/2301.02494; as TAFE at RecSys 2023).

Y^l = ASRG(Y^{l-1}),   Y^0 = the field embeddings                            what all tasks share (asrg.py)
F_t^l = MHA(α_t^l, Y^l, Y^l),   T_t^l = LN(T_t^{l-1} + F_t^l)                pattern selector of task t
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.models.asrg import ASRG
from seqmtl.nn.attention import Attention
from seqmtl.nn.mlp import ParallelLayerNorm, xavier
from seqmtl.nn.options import one_of
from seqmtl.nn.smooth_step import Gamma
from seqmtl.types import Features, Schema

CHOICES = {
    "asrg": ("dynamic", "self_attention", "induced_no_selector"),
    "residual": ("auto", "query", "none", "mean", "proj", "concat"),
    "mask_mode": ("query", "output"),
    "projections": ("per_task", "shared", "raw"),
    "pooling": ("selector", "mean"),
}


class PatternSelectors(nn.Module):
    """One layer's selectors of all tasks: Y (B,rows,D), T^{l-1} (B,T,D) or None → T^l (B,T,D)."""

    compiled_alone = True

    def __init__(self, tasks: int, dim: int, heads: int, projections: str) -> None:
        super().__init__()
        self.per_task = projections == "per_task"
        self.alpha = nn.Parameter(torch.empty(tasks, 1, dim))  # task indicators
        xavier(self.alpha, dim, 1)
        self.attention = Attention(dim, heads, n=tasks if self.per_task else 1, project=projections != "raw")
        self.norm = ParallelLayerNorm(tasks, dim)

    def forward(self, y: Tensor, previous: Tensor | None) -> Tensor:
        # Projections of its own make T attentions with one query each, common ones one attention with T queries.
        query = self.alpha if self.per_task else self.alpha.transpose(0, 1)
        f: Tensor = self.attention(query.unsqueeze(0), y).flatten(1, 2)  # (B,T,D) eq. 18
        normed: Tensor = self.norm(f if previous is None else previous + f)  # eq. 19; T^0 is left out
        return normed


class APEM(nn.Module):
    """A bottom: L layers of ASRG, each read by T pattern selectors. See docs/models.md for what the paper leaves open.

    Args:
        layers, inducing: L and K (Table 2).
        heads: of every attention; None: 2 (Table 2), or 1 where the width is odd.
        selector_dims: hidden layers of the selector.
        gamma: width of the smooth step over the optimizer steps.
        asrg: dynamic; self_attention (the ablation without ASRG); induced_no_selector (its narrower reading, ζ = 1).
        residual: what eq. 17 adds: auto, query, none, mean, proj or concat.
        mask_mode: query; output also switches off the output rows.
        projections: of the pattern selectors: per_task, shared or raw.
        pooling: selector; mean (the ablation without pattern selectors: the mean over the rows of Y).

    Shapes: Features → z (B,T,D), or (B,1,D) with pooling mean. Extras, detached: `selected` () the mean of ζ, `undecided` () the
    share of ζ strictly between 0 and 1.

    Raises:
        SeqmtlError: an unknown choice, or heads that do not divide the width.
    """

    step: Tensor
    histories = ()  # what it reads of them
    follows_in_tensors = True  # set_step fills `step`, which a recorded training step reads anew (cuda_graph.py)

    def __init__(
        self,
        schema: Schema,
        dim: int,
        layers: int = 4,
        inducing: int = 64,
        heads: int | None = None,
        selector_dims: Sequence[int] = (),
        gamma: Gamma | None = None,
        asrg: str = "dynamic",
        residual: str = "auto",
        mask_mode: str = "query",
        projections: str = "per_task",
        pooling: str = "selector",
    ) -> None:
        super().__init__()
        given = {"asrg": asrg, "residual": residual, "mask_mode": mask_mode, "projections": projections, "pooling": pooling}
        for option, value in given.items():
            one_of(f"model.bottom.{option}", value, CHOICES[option])
        heads = 1 + (dim % 2 == 0) if heads is None else heads
        self.gamma, self.width = gamma or Gamma(), dim
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.layers = nn.ModuleList()
        rows = len(schema.fields)
        for layer in range(layers):
            kind = ("input" if layer else "query") if residual == "auto" else residual
            self.layers.append(made := ASRG(rows, dim, heads, inducing, selector_dims, asrg, kind, mask_mode))
            rows = made.rows
        kinds = range(layers if pooling == "selector" else 0)
        self.selectors = nn.ModuleList(PatternSelectors(len(schema.tasks), dim, heads, projections) for _ in kinds)

    def set_step(self, step: int) -> None:
        """Optimizer steps so far; gamma follows."""
        self.step.fill_(step)

    def forward(self, features: Features) -> Tensor:
        y, gamma = features.fields, self.gamma(self.step)  # (B,F,D) eq. 10
        zetas, t = [], None
        for layer, asrg in enumerate(self.layers):
            y, zeta = asrg(y, gamma)  # (B,K,D)
            zetas += [] if zeta is None else [zeta.detach()]
            if self.selectors:
                t = self.selectors[layer](y, t)  # (B,T,D)
        if zetas:
            zeta = torch.stack(zetas)
            features.extras |= {"selected": zeta.mean(), "undecided": ((zeta > 0) & (zeta < 1)).float().mean()}
        return y.mean(1, keepdim=True) if t is None else t
