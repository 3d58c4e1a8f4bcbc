"""One inner step: a model at θ' = θ - α ∂L/∂θ, differentiable in θ, while its own parameters stay as they are.

Unusual: a batch reads few of a table's rows, and only those have a gradient. The gradient is taken with regard to the vectors that
were read and added up over the looks at each row, so that nothing is as large as a table; other rows are at θ, as they must be.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from seqmtl.nn.embedding import FieldEmbedding, Lookup
from seqmtl.types import Batch, Output

SCOPES = ("all", "dense", "head")


class Adapted(NamedTuple):
    """Where θ' differs from θ: parameters (by name), and shifts of tables' rows, (R,) and (R,D)."""

    parameters: dict[str, Tensor]
    shifts: dict[FieldEmbedding, tuple[Tensor, Tensor]]


def adapt(
    model: nn.Module, loss: Tensor, lookups: Sequence[Lookup], alpha: float, scope: str = "all", first_order: bool = False
) -> Adapted:
    """θ' after one step down the gradient of `loss`.

    Args:
        lookups: what the loss read of the tables, cut off (see `watch`); not used by scope dense.
        scope: all; dense, the same by a gradient of the tables' size, if they were not cut off; head, the tables stay at θ.
        first_order: θ' - θ is a constant.
    """
    modules = [module for module in model.modules() if isinstance(module, FieldEmbedding)]
    if scope == "dense":
        for module in modules:
            module.about_to_be_read()  # what is moved here is read later
    tables = {id(module.weight) for module in modules}
    named = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (scope == "dense" or id(parameter) not in tables)
    }
    looked = [look for look in lookups if look.vectors.requires_grad] if scope == "all" else []
    wanted = [*named.values(), *(look.vectors for look in looked)]
    gradients = torch.autograd.grad(loss, wanted, create_graph=not first_order, allow_unused=True)
    parameters = {
        name: parameter - alpha * gradient
        for (name, parameter), gradient in zip(named.items(), gradients, strict=False)
        if gradient is not None
    }
    of_table: dict[FieldEmbedding, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for look, gradient in zip(looked, gradients[len(named) :], strict=True):
        if gradient is not None:
            of_table[look.table].append((look.rows.flatten(), gradient.flatten(0, -2)))
    return Adapted(parameters, {table: _step(found, alpha) for table, found in of_table.items()})


def _step(found: list[tuple[Tensor, Tensor]], alpha: float) -> tuple[Tensor, Tensor]:
    """The distinct rows (R,), sorted, and -α times the sum of the gradients at each (R,D)."""
    rows, place = torch.cat([rows for rows, _ in found]).unique(return_inverse=True)
    gradients = torch.cat([gradient for _, gradient in found])
    return rows, -alpha * gradients.new_zeros(len(rows), gradients.shape[1]).index_add(0, place, gradients)


def forward(model: nn.Module, batch: Batch, at: Adapted) -> Output:
    """The model's output at θ'."""
    with contextlib.ExitStack() as stack:
        for table, (rows, by) in at.shifts.items():
            stack.enter_context(table.shift(rows, by))
        output: Output = functional_call(model, at.parameters, (batch,))
    return output
