"""CGC, customized gate control: one level of PLE (Tang et al., RecSys 2020, https://doi.org/10.1145/3383313.3412236).

A_t = [f_t,p(x_t)]_p,   A_s = [f_s,q(x_s)]_q                 private and shared experts
x_t' = softmax(W_t x_t + b_t) · [A_t, A_s]                   gate of task t
x_s' = softmax(W_s x_s + b_s) · [A_1, …, A_T, A_s]           shared gate
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqmtl.nn.mlp import MLP, ParallelLinear
from seqmtl.nn.probability import softmax


class CGC(nn.Module):
    """One level. Both results are made of the level's inputs: no gate reads what another has just written.

    Shapes: x (…,N,W), s (…,M,W) → x' (…,T,H) and s' (…,1,H), N and M = 1 or T. Without a shared gate s' is s; with one M = 1.
    """

    def __init__(
        self,
        tasks: int,
        width: int,
        dims: Sequence[int],
        shared: int,
        private: int,
        shared_gate: bool,
        gate_bias: bool,
        dropout: Sequence[float],
        norm: str,
    ) -> None:
        super().__init__()
        self.tasks, self.each = tasks, private
        self.private = MLP(width, dims, n=tasks * private, dropout=dropout, norm=norm) if private else None
        self.shared = MLP(width, dims, n=shared, dropout=dropout, norm=norm) if shared else None
        self.gates = ParallelLinear(tasks, width, private + shared, bias=gate_bias)
        self.shared_gate = ParallelLinear(1, width, tasks * private + shared, bias=gate_bias) if shared_gate else None

    def forward(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        read = []  # what a task's gate weighs
        if self.private is not None:
            a = self.private(x if x.shape[-2] == 1 else x.repeat_interleave(self.each, -2))  # (…,T·P,H)
            read.append(a.unflatten(-2, (self.tasks, self.each)))  # (…,T,P,H)
        if self.shared is not None:
            read.append(self.shared(s.unsqueeze(-2)))  # (…,M,S,H)
        g = softmax(self.gates(x)).split([f.shape[-2] for f in read], -1)  # (…,T,P) and (…,T,S)
        mixed = torch.stack([_mix(weights, f) for weights, f in zip(g, read, strict=True)]).sum(0)  # (…,T,H)
        if self.shared_gate is not None:
            experts = torch.cat([f.flatten(-3, -2) for f in read], -2)  # (…,T·P+S,H)
            s = _mix(softmax(self.shared_gate(s)), experts.unsqueeze(-3))  # (…,1,H)
        return mixed, s


def _mix(weights: Tensor, experts: Tensor) -> Tensor:
    """(…,K), (…,K,H) → (…,H)."""
    return torch.einsum("...k,...kh->...h", weights.to(experts.dtype), experts)
