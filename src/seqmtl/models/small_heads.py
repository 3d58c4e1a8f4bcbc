"""SmallHeads: Can Small Heads Help? Understanding and Improving Multi-Task Generalization
(Wang et al., WWW 2022, https://doi.org/10.1145/3485447.3512021).

    a_t = w_t·r + b_t,   L = Σ_t BCE(o_t, y_t) + λ Σ_t BCE(a_t, y_t)

Beside a model's own head, a head for each task that is too small to learn the task alone, so that the shared representation must.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.mlp import MLP, ParallelLinear
from seqmtl.nn.options import at_least, one_of
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Features, Output, Schema

ATTACH = ("bottom", "experts")


class SmallHeads(nn.Module):
    """A head around another: the other's log-odds, and small heads that only train what they read.

    Args:
        inner: the head whose log-odds are the model's.
        attach: what the small heads read: bottom (z), or experts (what the trunk mixes of its experts, before the towers).
        hidden: width of a hidden layer in each; None: they are linear.

    Shapes: h (B,T,H), z (B,G,W) → logits (B,T). Extras: `auxiliary` (B,T), the small heads' log-odds, and what the inner head has.

    Raises:
        SeqmtlError: an unknown place, or a trunk without experts that could be read.
    """

    provides = frozenset({"auxiliary"})

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        z_width: int,
        inner: Callable[..., Any],
        attach: str = "bottom",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        one_of("model.head.attach", attach, ATTACH)
        at_least("model.head.hidden", hidden, 1)
        self.inner = inner(schema, dim, width=width, z_width=z_width)
        self.provides = SmallHeads.provides | getattr(self.inner, "provides", frozenset())
        self.attach, self.tasks, self.dims = attach, len(schema.tasks), [] if hidden is None else [hidden]
        if attach == "bottom":
            self._read(z_width)

    def join(self, trunk: nn.Module) -> None:
        """Told by the model which trunk stands before it."""
        if self.attach == "experts":
            width = getattr(trunk, "experts_width", None)
            if width is None:
                raise SeqmtlError(
                    f"model.head.attach=experts needs a trunk that mixes experts before its towers, which {type(trunk).__name__}"
                    " does not; model/trunk=mmoe, omoe, ple and shared_bottom do, and model.head.attach=bottom works with any"
                )
            self._read(width)

    def _read(self, width: int) -> None:
        self.layers = MLP(width, self.dims, n=self.tasks)
        self.small = ParallelLinear(self.tasks, self.layers.width, 1)

    def forward(self, h: Tensor, z: Tensor, features: Features) -> Output:
        output: Output = self.inner(h, z, features)
        r = self.layers(z if self.attach == "bottom" else features.extras["experts"])  # (B,T,·)
        with torch.autocast(r.device.type, enabled=False):
            output.extras["auxiliary"] = self.small(at_least_float32(r)).squeeze(-1)  # (B,T)
        return output
