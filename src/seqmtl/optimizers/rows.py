"""Optimizers that move rows of embedding tables, and leave all else to an optimizer of torch."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from seqmtl.nn.embedding import is_table
from seqmtl.nn.table_gradients import rows_with_gradient


def tables_of(groups: Iterable[dict[str, Any]]) -> list[nn.Parameter]:
    """The embedding tables among the parameters of an optimizer's groups."""
    return [parameter for group in groups for parameter in group["params"] if is_table(parameter)]


@contextlib.contextmanager
def gradients_hidden(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, these have no gradient, and torch's optimizers leave them alone."""
    hidden = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in hidden:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in hidden:
            parameter.grad = gradient


class ByRows(torch.optim.Optimizer):
    """To stand before an optimizer of torch among the bases of a class: `step` is that one's, but for tables."""

    waits_for_device = True  # on a GPU, to know which rows there are: such a step cannot be recorded

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with gradients_hidden(tables_of(self.param_groups)):
            super().step()
        for group in self.param_groups:
            for table in tables_of([group]):
                if table.grad is not None:
                    rows, gradient = rows_with_gradient(table)
                    self.move(table, rows, gradient, group)
        return loss

    @abstractmethod
    def move(self, table: nn.Parameter, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step of a table in which these rows (n,), sorted and distinct, have a gradient (n,D), which may be written into."""
