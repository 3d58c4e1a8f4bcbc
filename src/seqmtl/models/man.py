"""MAN: Multi-Task Deep Learning with Task Attention for Post-Click Conversion Rate Prediction
(Intelligent Automation & Soft Computing 36(3), 2023, https://doi.org/10.32604/iasc.2023.036622).

    x_t = tower_t(CGC_t(z)),   C_t = a(g(x_u), x_t) for the adjacent task u,   C_t = x_t where there is none
    a: the self-scored attention over the two, as in AITM;   h_t = ReLU(W_t C_t + b_t)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.models.aitm import AIT
from seqmtl.models.ple import PLE
from seqmtl.nn.graph import edges, resolve_parents
from seqmtl.nn.mlp import MLP
from seqmtl.nn.options import one_of
from seqmtl.types import Features, Schema


class TaskAttention(nn.Module):
    """C_t = mean over the edges u→t of a(g_ut(x_u), x_t); x_t where no edge ends.

    Shapes: x (B,T,k) → C (B,T,k), and the mean weight of what a task hears (B,T), 0 where that is nothing.
    """

    def __init__(self, k: int, edges: Sequence[tuple[int, int]], shared: bool, bias: bool, dropout: float) -> None:
        super().__init__()
        self.edges = list(edges)
        self.g = MLP(k, [k], n=len(self.edges), dropout=dropout)
        self.ait = nn.ModuleList(AIT(k, bias) for _ in range(1 if shared else len(self.edges)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.g(torch.stack([x[:, u] for u, _ in self.edges], 1))  # (B,edges,k)
        heard: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(x.shape[1])]
        for edge, (_, t) in enumerate(self.edges):
            heard[t].append(self.ait[edge % len(self.ait)](p[:, edge], x[:, t]))  # (B,k), (B,2)
        c, w = list(x.unbind(1)), list(x.new_zeros(x.shape[1], len(x), 2, dtype=torch.float32))
        for t, pairs in enumerate(heard):
            if pairs:
                c[t], w[t] = (torch.stack(values).mean(0) for values in zip(*pairs, strict=True))
        return torch.stack(c, 1), torch.stack(w, 1)[..., 0]


class MAN(nn.Module):
    """A trunk: one level of private and shared experts, towers, attention between adjacent tasks, a hidden layer.

    Args:
        dims, shared, private, specific_is_total, gate_bias: of the experts; see `PLE`.
        tower_dims, hidden: of each task, before the attention and after it (with the linear head 3.3's "two-layer MLP").
        attention: without it the model of the meta-learning stage and of the ablation; then nothing of it exists.
        direction: forward, children hear their parents; both, parents hear their children too.
        place: of the attention: after_tower or before_tower.
        ait_bias, ait_shared: whether query, key and value have a bias, and are one set for all edges.
        parents: index of each task's parent or None, instead of the schema's.
        dropout, norm: of experts, towers and hidden layer; the transfer g has the dropout too.

    Shapes: z (B,G,W) → h (B,T,H). `extras["transfer"]` (B,T): the weight of what the adjacent task hands over; detached.

    Raises:
        SeqmtlError: an unknown choice, or attention where no task has a parent.

    *Differs*: the paper draws two tasks. Here each edge of the task graph is a pair, all read what stands before the attention,
    and a task with several neighbours takes the mean of its pairs.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        dims: Sequence[int] = (256, 128),
        shared: int | None = 4,
        private: int = 4,
        specific_is_total: bool = False,
        gate_bias: bool = True,
        tower_dims: Sequence[int] = (128, 16, 32),
        hidden: Sequence[int] = (32,),
        attention: bool = True,
        direction: str = "forward",
        place: str = "after_tower",
        ait_bias: bool = False,
        ait_shared: bool = True,
        parents: Sequence[int | None] | None = None,
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        one_of("model.trunk.direction", direction, ("forward", "both"))
        one_of("model.trunk.place", place, ("after_tower", "before_tower"))
        tasks = len(schema.tasks)
        self.cgc = PLE(schema, dim, width, [dims], shared, private, specific_is_total, gate_bias, dropout, (), norm=norm)
        self.towers = MLP(self.cgc.width, tower_dims, n=tasks, dropout=dropout, norm=norm)
        self.hidden = MLP(self.towers.width, hidden, n=tasks, dropout=dropout, norm=norm)
        self.width = self.hidden.width
        self.before = place == "before_tower"
        self.attention = None
        if attention:
            pairs = list(zip(*edges(resolve_parents(schema, parents, "MAN", "model.trunk.parents")), strict=True))
            pairs += [(t, u) for u, t in pairs] if direction == "both" else []
            k = self.cgc.width if self.before else self.towers.width
            self.attention = TaskAttention(k, pairs, ait_shared, ait_bias, dropout)

    def forward(self, z: Tensor, features: Features) -> Tensor:
        x = self.cgc(z, features)  # (B,T,H) 3.2.2
        x = self.towers(self._attend(x, features) if self.before else x)  # (B,T,k)
        x = x if self.before else self._attend(x, features)  # 3.2.3
        h: Tensor = self.hidden(x)  # 3.3
        return h

    def _attend(self, x: Tensor, features: Features) -> Tensor:
        if self.attention is None:
            return x
        c, w = self.attention(x)
        features.extras["transfer"] = w.detach()
        return c
