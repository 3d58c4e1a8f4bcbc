"""Adagrad with one number of state for each row of an embedding table, as in FBGEMM and TorchRec.

    G_r ← G_r + mean_d g_rd²,   w_r ← w_r - lr · g_r / (√G_r + eps)

Adagrad: Duchi, Hazan & Singer, JMLR 12 (2011), https://jmlr.org/papers/v12/duchi11a.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from seqmtl.optimizers.rows import ByRows, tables_of


class RowwiseAdagrad(ByRows, torch.optim.Adagrad):
    """torch's Adagrad; of the tables of FieldEmbedding by rows, and only those with a gradient: the others would not move.

    With weight decay the gradient of L2 is added to rows that have another gradient, and to no others, as FBGEMM does.

    On a GPU a step waits for the device.

    Args:
        params: parameters, or groups of them.
        lr, eps, weight_decay: of Adagrad.
        initial_accumulator_value: G at the start.
        fused: one kernel for all other parameters.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__(
            params, lr=lr, weight_decay=weight_decay, initial_accumulator_value=initial_accumulator_value, eps=eps, fused=fused
        )
        for table in tables_of(self.param_groups):
            self.state[table]["sum"] = table.new_full((len(table),), initial_accumulator_value, requires_grad=False)

    def move(self, table: nn.Parameter, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state: dict[str, Tensor] = self.state[table]
        state["step"] += 1
        weight = table.index_select(0, rows)
        if group["weight_decay"]:
            gradient.add_(weight, alpha=group["weight_decay"])
        squares = state["sum"].index_select(0, rows) + gradient.square().mean(1)
        state["sum"].index_copy_(0, rows, squares)
        divisor = squares.sqrt().add_(group["eps"]).unsqueeze(1)
        table.index_copy_(0, rows, weight.addcdiv_(gradient, divisor, value=-group["lr"]))
