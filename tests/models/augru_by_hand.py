"""One step of DIEN's recurrent cell, written out."""

from __future__ import annotations

from torch import Tensor

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
