"""One forward, one backward."""

from __future__ import annotations

from torch import Tensor, nn

from seqmtl.nn.embedding import watch
from seqmtl.nn.table_gradients import add_gradients
from seqmtl.steps.terms import Loss, loss_terms, told, total
from seqmtl.types import Batch, Schema


class Plain:
    """Leaves the gradient of the summed terms in `.grad`."""

    same_for_every_batch = True  # the same operations, whatever stands in it

    def __init__(self, schema: Schema) -> None:
        pass

    def __call__(self, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms, detached. The gradient is weighted by `batch.share` (see Batch)."""
        with watch(model, cut=True) as lookups:
            output = model(batch)
        terms = loss_terms(output, loss, batch.y)
        (total(terms) * batch.share).backward()
        add_gradients(lookups)
        return told(terms, output)
