"""One step of DIEN's recurrent cell, written out, and modules whose weights are not those of the start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqmtl.models.augru import AUGRU


def augru(cell: AUGRU, x: Tensor, a: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u, the new state of the paper's equations or the official ones, and the candidate, by hand."""
    w_u, w_r, w_c = cell.input.weight.chunk(3)
    b_u, b_r, b_c = cell.input.bias.chunk(3)
    u_u, u_r, u_c = cell.state.weight.chunk(3)
    u = 1 / (1 + (-(x @ w_u.T + h @ u_u.T + b_u)).exp())
    r = 1 / (1 + (-(x @ w_r.T + h @ u_r.T + b_r)).exp())
    c = (x @ w_c.T + r * (h @ u_c.T) + b_c).tanh()
    a = a.unsqueeze(-1)
    if cell.form == "paper":
        return u, (1 - a * u) * h + a * u * c, c
    return u, (1 - a) * u * h + (1 - (1 - a) * u) * c, c


def perturbed(module: nn.Module) -> Any:
    for parameter in module.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return module.double()
