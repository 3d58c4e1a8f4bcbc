"""One forward, one backward."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from seqmtl.types import Batch, Output

Loss = Callable[[Output, Tensor], dict[str, Tensor]]


def loss_terms(output: Output, loss: Loss, y: Tensor) -> dict[str, Tensor]:
    """The terms of the loss, and every `loss_*` that the model put into its extras; their sum is what is trained."""
    return loss(output, y) | {k.removeprefix("loss_"): v for k, v in output.extras.items() if k.startswith("loss_")}


class Plain:
    """Leaves the gradient of the summed terms in `.grad`."""

    def __call__(self, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms, detached. The gradient is weighted by `batch.share` (see Batch)."""
        terms = loss_terms(model(batch), loss, batch.y)
        (sum(terms.values()) * batch.share).backward()  # type: ignore[union-attr]
        return {name: value.detach() for name, value in terms.items()}
