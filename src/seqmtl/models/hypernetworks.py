"""The hypernetworks of DTRN (CIKM 2023, https://doi.org/10.1145/3583780.3614837, section 3.3.1).

    γ_{t,b} = MLP_γ([T_t, BS_b]),   β_{t,b} = MLP_β([T_t, BS_b])                               eq. 2

The table of all pairs is small and the same for all rows: it is computed once a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.mlp import ParallelLinear, xavier

LAYERS = 2  # that have these parts: the encoder and the decoder


class Hypernetworks(nn.Module):
    """For every pair of task and behaviour, the numbers that change some parts of the Transformer's layers.

    Args:
        tasks, behaviours: how many there are; each has an embedding.
        dim, hidden: width of the embeddings, and of the hypernetworks' hidden layer.
        parts, size: names of what changes in each layer, and how many numbers each has.
        norms: whether they are norms, which have two hypernetworks each, for γ and for β; else one, for Δ.
        residual: γ is 1 plus what its hypernetwork says.

    Returns, for encoder and decoder: {part: (M,T,2 or 1,size)}. At the start γ = 1, β = 0 and Δ = 0, whatever the pair.
    """

    def __init__(
        self,
        tasks: int,
        behaviours: int,
        dim: int,
        hidden: int,
        parts: Sequence[str],
        size: int,
        norms: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.tasks, self.behaviours = (nn.Parameter(torch.empty(n, dim)) for n in (tasks, behaviours))
        for types in (self.tasks, self.behaviours):
            xavier(types, dim, 1)
        self.added = 1.0 if norms and residual else 0.0
        start = torch.tensor([1.0 - self.added, 0.0] if norms else [0.0]).repeat(LAYERS * len(parts))
        self.hidden = ParallelLinear(len(start), 2 * dim, hidden)
        self.out = ParallelLinear(len(start), hidden, size)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        self.out.bias.data += start.unsqueeze(1)

    def forward(self) -> list[dict[str, Tensor]]:
        tasks, behaviours = len(self.tasks), len(self.behaviours)
        pairs = torch.cat([self.tasks.expand(behaviours, -1, -1), self.behaviours.unsqueeze(1).expand(-1, tasks, -1)], -1)
        # In float32 also under autocast: half precision would round γ = 1.003 to 1.
        with torch.autocast(pairs.device.type, enabled=False):
            made = self.out(self.hidden(pairs.unsqueeze(-2)).relu())  # (M,T,n,size)
        made = made.unflatten(2, (LAYERS, len(self.parts), -1))  # (M,T,2,parts,2 or 1,size)
        if self.added:
            gamma, beta = made.unbind(-2)
            made = torch.stack([self.added + gamma, beta], -2)
        return [dict(zip(self.parts, layer.unbind(2), strict=True)) for layer in made.unbind(2)]
