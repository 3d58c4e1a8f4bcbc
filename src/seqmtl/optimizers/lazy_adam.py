"""Adam that moves only those rows of an embedding table that have a gradient.

As TensorFlow's LazyAdam, and different mathematics from Adam (Kingma & Ba, ICLR 2015, https://arxiv.org/abs/1412.6980): there a
row that is not read is still moved by what is left of its momentum, and its moments decay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from seqmtl.optimizers.rows import ByRows


class LazyAdam(ByRows, torch.optim.Adam):
    """torch's Adam; of the tables of FieldEmbedding, weights and moments of the rows with a gradient only.

    A row's bias correction is that of the table's step, however often the row itself was moved. With weight decay the gradient of
    L2 is added to rows that have another gradient, and to no others.

    The moments are as large as the table, but a step costs what its rows cost. On a GPU it waits for the device.

    Args:
        params: parameters, or groups of them.
        lr, betas, eps, weight_decay: of Adam.
        fused: one kernel for all other parameters, and one for a table's rows.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)

    def move(self, table: nn.Parameter, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.started(table, group)
        if not len(rows):
            state["step"] += 1
            return
        weight, m, v = self.taken(table, rows)
        adam(
            [weight],
            [gradient],
            [m],
            [v],
            [],
            [state["step"]],
            foreach=False,
            fused=group["fused"],
            capturable=group["capturable"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        self.put(table, rows, weight, m, v)

    def started(self, table: nn.Parameter, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of a table: the number of its steps, and m and v of a row side by side, (rows,2D).

        What such a step costs is the way to rows far apart in memory: one less is a third less.
        """
        state: dict[str, Tensor] = self.state[table]
        if not state:
            on_device = group["fused"] or group["capturable"]
            state["step"] = torch.zeros((), dtype=torch.float32, device=table.device if on_device else "cpu")
            state["moments"] = table.new_zeros(len(table), 2 * table.shape[1], requires_grad=False)
        return state

    def taken(self, table: nn.Parameter, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copies of rows (n,): weights, m and v, (n,D) each."""
        m, v = self.state[table]["moments"].index_select(0, rows).chunk(2, 1)
        return table.index_select(0, rows), m.contiguous(), v.contiguous()

    def put(self, table: nn.Parameter, rows: Tensor, weight: Tensor, m: Tensor, v: Tensor) -> None:
        """Write them back."""
        table.index_copy_(0, rows, weight)
        self.state[table]["moments"].index_copy_(0, rows, torch.cat((m, v), 1))
