"""Gradients of embedding tables: dense, and zero but for the rows that a batch has read.

Unusual: their memory is kept from step to step. To clear the rows that were read costs thousands of rows where a new gradient costs
millions; and between ranks those rows are sent alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # embedding.py imports this module
    from seqmtl.nn.embedding import Lookup


def touched_rows(parameter: Tensor) -> list[Tensor] | None:
    """Rows in which the gradient may differ from zero, in pieces (n,) that may repeat rows; None: nobody has noted them."""
    rows: list[Tensor] | None = getattr(parameter, "touched", None)
    return rows


def forget_rows(parameter: Tensor) -> None:
    """The gradient was written by another hand: any row may differ from zero."""
    parameter.touched = None  # type: ignore[attr-defined]


def _start_gradient(weight: Tensor) -> Tensor:
    """Give a weight a gradient of zeros, in the memory that is kept where there is some."""
    kept: Tensor | None = getattr(weight, "kept", None)
    weight.grad = gradient = torch.zeros_like(weight) if kept is None else kept
    weight.kept, weight.touched = None, []  # type: ignore[attr-defined]
    return gradient


def add_gradients(lookups: Iterable[Lookup]) -> None:
    """Add the gradients of vectors that were cut off to those of their tables, and note which rows they are."""
    for table, rows, vectors in lookups:
        if vectors.grad is None:
            continue
        weight, flat = table.weight, rows.flatten().to(torch.int64)
        gradient = weight.grad if weight.grad is not None else _start_gradient(weight)
        gradient.index_add_(0, flat, vectors.grad.flatten(0, -2))
        noted = touched_rows(weight)
        if noted is not None:
            noted.append(flat)


def rows_with_gradient(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """The rows (n,) in which the gradient is not zero, sorted, and the gradient there (n,D); the table must have one.

    Where nobody has noted which rows were read, the whole gradient is looked through. On a GPU this waits for the device.
    """
    assert table.grad is not None
    noted = touched_rows(table)
    if noted is None:
        rows = (table.grad != 0).any(1).nonzero().squeeze(1)
        return rows, table.grad.index_select(0, rows)
    if not noted:
        return torch.empty(0, dtype=torch.int64, device=table.device), table.grad[:0]
    rows = torch.cat(noted).unique()
    gradient = table.grad.index_select(0, rows)
    # Rows that were read in vain are left out: of several ranks none could tell them from rows that were not read.
    pulled = (gradient != 0).any(1).nonzero().squeeze(1)
    return rows.index_select(0, pulled), gradient.index_select(0, pulled)


@torch.no_grad()
def clear_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Forget all gradients; where the touched rows are known, the memory is kept for the next one, zero again."""
    for parameter in parameters:
        touched = touched_rows(parameter)
        if parameter.grad is not None and touched is not None:
            for rows in touched:
                parameter.grad.index_fill_(0, rows, 0.0)
            parameter.kept = parameter.grad  # type: ignore[attr-defined]
        parameter.grad = None  # a table that the next batch does not read has none, and is left alone
        forget_rows(parameter)


@torch.no_grad()
def replace_gradient(parameter: nn.Parameter, pieces: Sequence[tuple[Tensor, Tensor]]) -> None:
    """The gradient becomes the sum of pieces, each of rows (n,) that are distinct and what stands there (n,D), in their order."""
    clear_gradients([parameter])
    gradient = _start_gradient(parameter)
    for rows, values in pieces:
        gradient.index_add_(0, rows, values)
    parameter.touched = [rows for rows, _ in pieces]  # type: ignore[attr-defined]


def release_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Forget all gradients, and give their memory back."""
    for parameter in parameters:
        parameter.grad = None
        parameter.kept = None  # type: ignore[attr-defined]
        forget_rows(parameter)
