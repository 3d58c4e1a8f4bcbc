"""A training step as one CUDA graph. A step of these models is hundreds of kernels of a few microseconds: launched one by one, the
launches take longer than the work.

Unusual: no step is run for warming up or capturing alone. The first batches run op by op, on the stream that is captured later, and
count; then one is recorded, and that one and all further ones of its shape are replayed. A shorter batch runs op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.steps.ranks import world_size
from seqmtl.types import Batch, Schema

WARM = 3  # batches before the recording: libraries choose their kernels and make their workspaces, the optimizer its state

Train = Callable[[Batch], tuple[tuple[str, ...], Tensor]]


class GraphedStep:
    """Calls `train`, or replays what it did.

    Args:
        train: forward, backward and update of one batch → names and values (n,) of the loss's terms. All that differs between two
            batches must stand in tensors, and it must find and leave the gradients cleared.
        rows: of a whole batch.
    """

    def __init__(self, train: Train, rows: int) -> None:
        self.train, self.rows = train, rows
        self.warmed = 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> tuple[tuple[str, ...], Tensor]:
        if len(batch) != self.rows:
            return self.train(batch)
        if self.warmed < WARM:
            return self._warm(batch)
        if self.graph is None:
            self._record(batch)
        assert self.graph is not None
        self.fields.copy_(batch.fields)
        self.y.copy_(batch.y)
        self.graph.replay()
        return self.names, self.values

    def _warm(self, batch: Batch) -> tuple[tuple[str, ...], Tensor]:
        self.warmed += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            said = self.train(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return said

    def _record(self, batch: Batch) -> None:
        self.fields, self.y = batch.fields.clone(), batch.y.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.names, self.values = self.train(Batch(self.fields, self.y, share=batch.share))
        except RuntimeError as e:
            reason = str(e).splitlines()[0]
            raise SeqmtlError(f"a part of this model or its loss cannot be recorded ({reason}); trainer.cuda_graph=false") from e
        self.graph = graph


def why_batches_differ(model: object, step: object, schema: Schema) -> str:
    """Why a step may do something else, or on other shapes, for another batch of as many rows; "" where it does not."""
    if getattr(model, "histories", schema.history_names) or schema.bags:
        return "histories and multi-valued fields are of any length"
    if not getattr(step, "same_for_every_batch", False):
        return "its step looks at values, or takes gradients of gradients"
    return ""


def why_not_recorded(
    model: object, step: object, optimizer: torch.optim.Optimizer, schema: Schema, modules: Iterable[nn.Module] = ()
) -> str:
    """Why a step cannot be recorded, in words; "" where it can.

    Args:
        modules: that are told the number of the step or of the epoch, by set_step and set_epoch.
    """
    if differ := why_batches_differ(model, step, schema):
        return differ
    for module in modules:
        if hasattr(module, "set_epoch") or not getattr(module, "follows_in_tensors", False):
            return f"{type(module).__name__} is told the step or the epoch, and does not say that it keeps the step in a tensor"
    if getattr(optimizer, "waits_for_device", False):
        return "its optimizer asks which rows were read"
    if not all("capturable" in group for group in optimizer.param_groups):
        return "its optimizer counts steps on the host"
    return "several ranks meet in every step" if world_size() > 1 else ""
