"""M2M: Leaving No One Behind: A Multi-Scenario Multi-Task Meta Learning Approach for Advertiser Modeling
(Zhang et al., WSDM 2022, https://arxiv.org/abs/2201.06814).

    E_i = φ(r W_i + b_i),   T_t = φ(Linear(task t)),   S = φ(Linear([scenario, profile]))
    Meta(h):  W_j = reshape(S V_j + v_j),   b_j = S U_j + u_j,   h ← φ(h W_j + b_j)
    α_t,i = softmax_i vᵀ Meta([E_i, T_t]),   R_t = Σ_i α_t,i E_i                                 meta attention
    L_t ← φ(Meta(L_t) + L_t),   L_t^0 = R_t                                                      meta tower

φ is a leaky ReLU. Meta's weights come from the row's scenario (meta_unit.py): all experts and tasks of a row share them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.meta_unit import MetaUnit
from seqmtl.nn.mlp import ParallelLinear, xavier
from seqmtl.nn.options import at_least
from seqmtl.nn.probability import softmax
from seqmtl.types import Features, Schema


class M2M(nn.Module):
    """A trunk: experts that each task attends to, then towers, both with weights made from the scenario of the row.

    Args:
        scenario: fields that tell the scenario; none: a trained constant, one scenario for all rows.
        profile: fields that tell what kind of user, item or place a row has.
        experts, hidden: n and k, their number and width.
        view: k_s, width of the scenario's view.
        depth: layers of each meta unit.
        tower_depth: meta units of the towers.

    Shapes: z (B,G,W) → h (B,T,k). With G = T task t's experts read its own representation. Memory: W_j of the attention is
    B·(2k)² numbers, 8.4 million for 2048 rows and k = 32.

    Raises:
        SeqmtlError: a field of scenario or profile is not read, or a number too small.

    *Differs*: the paper regresses on counts of a Poisson distribution; here the head makes log-odds. Sizes are not the paper's.
    Public ports leave out the softmax over experts and the residual in the towers; neither is left out here.
    """

    read: Tensor

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        scenario: Sequence[str] | None = (),
        profile: Sequence[str] | None = (),
        experts: int = 4,
        hidden: int = 32,
        view: int = 32,
        depth: int = 1,
        tower_depth: int = 2,
    ) -> None:
        super().__init__()
        for option, number in (("experts", experts), ("hidden", hidden), ("view", view), ("depth", depth)):
            at_least(f"model.trunk.{option}", number, 1)
        at_least("model.trunk.tower_depth", tower_depth, 0)
        read = _places(schema, scenario, "model.trunk.scenario") + _places(schema, profile, "dataset.profile")
        read = list(dict.fromkeys(read))  # a field may be both
        self.register_buffer("read", torch.tensor(read, dtype=torch.int64), persistent=False)
        self.constant = None if scenario else nn.Parameter(torch.randn(dim))
        self.view = nn.Linear((len(read) + (not scenario)) * dim, view)
        self.experts = ParallelLinear(experts, width, hidden)
        self.tasks = nn.Parameter(torch.randn(len(schema.tasks), dim))
        self.task = nn.Linear(dim, hidden)
        for layer in (self.view, self.task):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.attention = MetaUnit(2 * hidden, view, depth)
        self.v = nn.Parameter(torch.empty(2 * hidden))
        xavier(self.v, 2 * hidden, 1)
        self.towers = nn.ModuleList(MetaUnit(hidden, view, depth) for _ in range(tower_depth))
        self.width = hidden

    def scenario(self, fields: Tensor) -> Tensor:
        """S: fields (B,F,D) → (B,k_s), or (1,k_s) where no field tells rows apart."""
        x = fields[:, self.read].flatten(1)  # (B,·)
        if self.constant is not None:
            constant = self.constant.unsqueeze(0)
            x = torch.cat([constant.expand(len(x), -1), x], 1) if len(self.read) else constant
        return F.leaky_relu(self.view(x))

    def weights(self, e: Tensor, s: Tensor) -> Tensor:
        """α: e (B,T,n,k) → (B,T,n)."""
        t = F.leaky_relu(self.task(self.tasks)).unsqueeze(1)  # (T,1,k)
        pairs = torch.cat([e, t.to(e.dtype).expand(e.shape)], -1)  # (B,T,n,2k)
        scores = self.attention(pairs.flatten(1, 2), s) @ self.v.unsqueeze(-1)  # (B,T·n,1)
        return softmax(scores.squeeze(-1).unflatten(1, e.shape[1:3]))

    def forward(self, z: Tensor, features: Features) -> Tensor:
        s = self.scenario(features.fields)
        e = F.leaky_relu(self.experts(z.unsqueeze(2))).expand(-1, len(self.tasks), -1, -1)  # (B,T,n,k)
        h = torch.einsum("btn,btnk->btk", self.weights(e, s).to(e.dtype), e)  # (B,T,k)
        for tower in self.towers:
            h = F.leaky_relu(tower(h, s) + h)
        return h


def _places(schema: Schema, names: Sequence[str] | None, option: str) -> list[int]:
    if isinstance(names, str):
        raise SeqmtlError(f"{option} must be a list: {option}=[{names}]")
    names = names or ()
    lacking = [name for name in names if name not in schema.field_names]
    if lacking:
        raise SeqmtlError(
            f"{option} names {', '.join(lacking)}, which the model does not read as a field; it reads"
            f" {', '.join(schema.field_names)}: choose of those ({option}=[]: none), or add it to dataset.fields"
        )
    return [schema.field_names.index(name) for name in names]
