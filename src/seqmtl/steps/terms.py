"""What every step does with the terms of a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.types import Output

Loss = Callable[[Output, Tensor], dict[str, Tensor]]


def loss_terms(output: Output, loss: Loss, y: Tensor) -> dict[str, Tensor]:
    """The terms of the loss, and every `loss_*` that the model put into its extras; their sum is what is trained."""
    return loss(output, y) | {k.removeprefix("loss_"): v for k, v in output.extras.items() if k.startswith("loss_")}


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss ()."""
    return torch.stack([value.sum() for value in terms.values()]).sum()


def objectives(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of each task, by its index, and of each term that belongs to no task, by its name; () each.

    What has the shape (T,) is one value for each task.
    """
    of_tasks = [value for value in terms.values() if value.ndim]
    found = {str(t): value for t, value in enumerate(torch.stack(of_tasks).sum(0))} if of_tasks else {}
    return found | {name: value for name, value in terms.items() if not value.ndim}


def tasks_and_rest(terms: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of each task (T,), and the sum () of the terms that belong to no task.

    Raises:
        SeqmtlError: no term has a value for each task.
    """
    of_tasks = [value for value in terms.values() if value.ndim]
    if not of_tasks:
        raise SeqmtlError(
            f"this step weighs tasks, but no term of the loss has a value for each ({', '.join(terms)}); use step=plain"
        )
    losses = torch.stack(of_tasks).sum(0)
    others = [value for value in terms.values() if not value.ndim]
    return losses, torch.stack(others).sum() if others else losses.new_zeros(())


def told(terms: Mapping[str, Tensor], output: Output) -> dict[str, Tensor]:
    """What a step reports: the terms, and as `extra/<name>` every scalar that a part of model or loss wants to show; detached."""
    scalars = {f"extra/{k}": v for k, v in output.extras.items() if v.ndim == 0 and not k.startswith("loss_")}
    return {name: value.detach().sum() for name, value in (dict(terms) | scalars).items()}
