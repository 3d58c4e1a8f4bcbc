"""ESCM²: Entire Space Counterfactual Multi-Task Model (Wang et al., SIGIR 2022, https://arxiv.org/abs/2204.05125).

ESMM's product of conditional steps, whose conditional logits are also trained on the rows where the parent happened
(losses/escm2.py). For the doubly robust loss a further tower imputes, for each edge u→t, what is not seen elsewhere:

    i_t = MLP_t(z)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.models.esmm import ESMM
from seqmtl.nn.graph import edges
from seqmtl.nn.mlp import MLP, ParallelLinear
from seqmtl.nn.probability import at_least_float32
from seqmtl.types import Features, Output, Schema


class ESCM2(nn.Module):
    """A head: ESMM's, and an imputation tower for each edge over the bottom's output.

    Args:
        imputation: whether the towers are there. Any word for yes: the loss's own option (`error`, `label`) says it.
        dims, dropout: of the imputation towers; ESMM's towers in AITM's Table 4.
        parents: index of each task's parent or None, instead of the schema's.

    Shapes: h (B,T,H), z (B,G,W) → logits (B,T). Extras: `conditional` (B,T), see `ESMM`; with towers also `imputation` (B,T),
    what the tower of the edge to t says, 0 for a root. With G = T the tower of an edge reads its child's representation.

    Raises:
        SeqmtlError: there are several tasks and none has a parent.

    *Differs*: any forest of steps. What the tower says has no bounds; public ports squeeze an unbounded error into (0,1).
    """

    provides = frozenset({"conditional", "imputation"})  # what it can; a head without towers says less
    child: Tensor

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        z_width: int,
        imputation: str | bool | None = None,
        dims: Sequence[int] = (128, 64, 32),
        dropout: float | Sequence[float] = (0.1, 0.3, 0.3),
        parents: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__()
        self.product = ESMM(schema, dim, width, z_width, parents)
        children = edges(self.product.parents)[1]
        self.register_buffer("child", torch.tensor(children, dtype=torch.int64), persistent=False)
        self.towers = MLP(z_width, dims, n=len(children), dropout=dropout) if imputation and children else None
        self.provides = self.product.provides | ({"imputation"} if self.towers is not None else frozenset())
        self.imputed = ParallelLinear(len(children), self.towers.width, 1) if self.towers is not None else None

    def forward(self, h: Tensor, z: Tensor, features: Features) -> Output:
        output: Output = self.product(h, z, features)
        if self.towers is not None and self.imputed is not None:
            i = self.towers(z if z.shape[1] == 1 else z[:, self.child])  # (B,edges,H)
            with torch.autocast(z.device.type, enabled=False):
                i = self.imputed(at_least_float32(i)).squeeze(-1)  # (B,edges)
            output.extras["imputation"] = i.new_zeros(output.logits.shape).index_copy(1, self.child, i)  # (B,T)
        return output
