"""Gradients of single objectives, where they meet.

The representation that all tasks share is what a batch reads of the embedding tables: B·(F or L)·D numbers, however large the
tables are. The rows of two ranks are different ones, so the products of the objectives' gradients there are sums over the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import FieldEmbedding, Lookup
from seqmtl.nn.table_gradients import forget_rows

CHUNK = 2**22  # columns that are in float64 at a time: a table may have billions of numbers

Jacobian = list[tuple[Tensor, Tensor]]  # tensors (…) that some objective depends on, each with the gradients of all n (n,…)


def read_vectors(lookups: Iterable[Lookup]) -> list[Tensor]:
    """The vectors that were read from tables that are trained.

    Raises:
        SeqmtlError: there are none.
    """
    found = [lookup.vectors for lookup in lookups if lookup.vectors.requires_grad]
    if not found:
        raise SeqmtlError(
            "this step looks at gradients where the model reads its embedding tables, but it reads none that is trained;"
            " use step=plain (or a gradient balancer with step.at=parameters)"
        )
    return found


def trained(*modules: object) -> list[nn.Parameter]:
    """The parameters of those that are modules, less frozen ones."""
    return [p for module in modules if isinstance(module, nn.Module) for p in module.parameters() if p.requires_grad]


def above_tables(model: nn.Module, loss: object) -> list[nn.Parameter]:
    """What is trained and is no embedding table."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, FieldEmbedding)}
    return [p for p in trained(model, loss) if id(p) not in tables]


def jacobian(losses: Sequence[Tensor], at: Sequence[Tensor], above: Sequence[Tensor]) -> tuple[Jacobian, list[Tensor | None]]:
    """The gradients of each loss at the tensors `at`, and of all losses' sum at those `above`; None: nothing depends on it."""
    rows: list[Sequence[Tensor | None]] = []
    of_sum: list[Tensor | None] = [None] * len(above)
    for i, loss in enumerate(losses):
        more = i + 1 < len(losses)
        found = torch.autograd.grad(loss, [*at, *above], retain_graph=more, allow_unused=True)
        rows.append(found[: len(at)])
        of_sum = [b if a is None else a if b is None else a + b for a, b in zip(of_sum, found[len(at) :], strict=True)]
    return [
        (x, torch.stack([torch.zeros_like(x) if g is None else g for g in gradients]))
        for x, gradients in zip(at, zip(*rows, strict=True), strict=True)
        if any(g is not None for g in gradients)
    ], of_sum


def gramian(gradients: Iterable[Tensor]) -> Tensor:
    """The products of all pairs of objectives' gradients (n,…), summed over the tensors: (n,n) float64, of this rank."""
    found = []
    for some in gradients:
        with torch.autocast(some.device.type, enabled=False):  # it would multiply in half precision
            for columns in some.flatten(1).split(CHUNK, 1):
                rows = columns.double()
                found.append(rows @ rows.T)
    return torch.stack(found).sum(0)


def combine(weights: Tensor, gradients: Tensor) -> Tensor:
    """Σ_t w_t g_t: (n,), (n,…) → (…)."""
    with torch.autocast(gradients.device.type, enabled=False):
        return (weights.to(gradients.dtype) @ gradients.flatten(1)).view(gradients.shape[1:])


def add(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Add to `.grad`, as backward() does: in the layout of the parameter, which fused optimizers take for granted."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        forget_rows(parameter)
        if parameter.grad is not None:
            parameter.grad += gradient
        elif gradient.stride() == parameter.stride():
            parameter.grad = gradient
        else:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
