"""Adam that moves a row of an embedding table when it is read, by all that it has missed: Adam's values at the cost of LazyAdam.

Unusual: between two steps a table is not what Adam would have made of it, but for the rows that are read. `catch_up` makes it
whole. A checkpoint to go on from needs no catching up: the state holds when each row was moved last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import call_before_read
from seqmtl.optimizers.lazy_adam import LazyAdam
from seqmtl.optimizers.missed_steps import MissedSteps
from seqmtl.optimizers.rows import tables_of

CHUNK = 2**16  # rows that are caught up at a time, where all are


class ExactLazyAdam(LazyAdam):
    """torch's Adam up to rounding, without weight decay on tables; see MissedSteps.

    A row is brought up to date before a FieldEmbedding reads it, and before it is moved. Whoever looks at the weights themselves
    calls `catch_up` first, and so does who changes lr.

    Beside the moments each row has the number of the step at which it was moved last. On a GPU reads and steps wait for the device.

    Args:
        params, lr, betas, eps, fused: as LazyAdam.
        weight_decay: 0 for tables.

    Raises:
        SeqmtlError: weight decay on a table, several ranks, betas that MissedSteps refuses.
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
        super().__init__(params, lr, betas, eps, weight_decay, fused)
        self.missed = MissedSteps((betas[0], betas[1]), eps)
        self.whole = False  # nothing has moved since all rows were brought up to date
        self.settled: set[nn.Parameter] = (
            set()
        )  # tables in which no row was moved last in the first steps, which are summed one by one
        for group in self.param_groups:
            tables = tables_of([group])
            if tables and group["weight_decay"]:
                raise SeqmtlError(
                    f"optimizer=exact_lazy_adam cannot take optimizer.decay={group['weight_decay']} for embedding tables: with L2"
                    " every row has a gradient at each step, which depends on the row itself, so that none can be left for later;"
                    " use optimizer=adam, or optimizer=lazy_adam if L2 of the rows that are read will do"
                )
            for table in tables:
                call_before_read(table, partial(self._before_read, table))
        if dist.is_available() and dist.is_initialized():
            self.refuse_ranks(dist.get_world_size())

    def refuse_ranks(self, world_size: int) -> None:
        """Each rank reads other rows: their tables would come to differ in rounding."""
        if world_size > 1:
            raise SeqmtlError(
                f"optimizer=exact_lazy_adam is for one process, not for {world_size} ranks, each of which would catch up"
                " other rows; use optimizer=adam, which it equals, or optimizer=lazy_adam"
            )

    def move(self, table: nn.Parameter, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        self.whole = False
        state = self.started(table, group)
        self._bring_up(table, rows, group)  # in case that the gradient came from elsewhere
        super().move(table, rows, gradient, group)
        state["last"].index_copy_(0, rows, state["step"].to(state["last"]).expand(len(rows)))

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring all rows up to date."""
        if self.whole:
            return
        for group in self.param_groups:
            for table in tables_of([group]):
                state = self.state.get(table)  # [table] would make one
                if state:
                    for some in torch.arange(len(table), device=table.device).split(CHUNK):
                        self._bring_up(table, some, group)
                    if state["step"] >= self.missed.first:
                        self.settled.add(table)
        self.whole = True

    @torch.no_grad()
    def _before_read(self, table: nn.Parameter, rows: Tensor | None) -> None:
        if rows is None:
            self.catch_up()
        elif not self.whole and self.state.get(table):
            # Not the group of the beginning: a state that is read makes new ones.
            group = next(group for group in self.param_groups if any(table is p for p in group["params"]))
            self._bring_up(table, rows.flatten().to(torch.int64), group, repeated=True)

    def _bring_up(self, table: nn.Parameter, rows: Tensor, group: dict[str, Any], repeated: bool = False) -> None:
        """Bring rows (n,) to where they are after the step that was taken last.

        Args:
            repeated: whether a row may stand there twice.
        """
        state = self.state[table]
        last = state["last"].index_select(0, rows)
        # A row that was never moved, 0, has no momentum and misses nothing.
        rows = rows[(last > 0) & (last < state["step"])]
        if not len(rows):
            return
        if repeated:
            rows = rows.unique()
        last = state["last"].index_select(0, rows)
        weight, m, v = self.taken(table, rows)
        now = state["step"].to(last)
        self.missed(weight, m, v, last, now, group["lr"], young=table not in self.settled)
        self.put(table, rows, weight, m, v)
        state["last"].index_copy_(0, rows, now.expand(len(rows)))

    def started(self, table: nn.Parameter, group: dict[str, Any]) -> dict[str, Tensor]:
        state = super().started(table, group)
        if "last" not in state:
            state["last"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.whole = False
        self.settled = set()
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            last = state_dict["state"].get(number, {}).get("last")
            if last is not None:  # torch makes numbers of the parameter's type of it, which cannot hold all steps
                self.state[parameter]["last"] = last.to(parameter.device, torch.int32, copy=True)
