"""Dynamic Weight Average: End-to-End Multi-Task Learning with Attention
(Liu et al., CVPR 2019, https://arxiv.org/abs/1803.10704, eq. 7).

    λ_t(e) = T softmax_t( r_t / temperature ),   r_t = L_t(e-1) / L_t(e-2)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.steps.ranks import summed
from seqmtl.steps.terms import Loss, loss_terms, tasks_and_rest, told
from seqmtl.types import Batch, Schema


class DWA(nn.Module):
    """One forward, one backward of Σ_t λ_t L_t. λ follows from the tasks' mean losses of the two epochs before; it begins as 1.

    Args:
        temperature: the higher, the more alike the weights.

    Terms of the loss that belong to no task keep the weight 1. The weights are logged as train/extra/weight_<task>.

    Raises:
        SeqmtlError: a temperature that is not above 0.
    """

    needs_shared = True
    weighs_by_ratios = True  # of the losses, which must stay above 0
    sums: Tensor
    count: Tensor
    means: Tensor
    epochs: Tensor

    def __init__(self, schema: Schema, temperature: float = 2.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise SeqmtlError(f"step.temperature must be above 0, not {temperature}")
        self.tasks, self.temperature = schema.task_names, temperature
        self.register_buffer("sums", torch.zeros(len(self.tasks), dtype=torch.float64))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer(
            "means", torch.zeros(2, len(self.tasks), dtype=torch.float64)
        )  # of the last epoch but one, of the last
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))  # that have a mean

    def set_epoch(self, epoch: int) -> None:
        """The epoch before is over. One that is resumed in its middle is not told again: the sums are in the checkpoint."""
        if self.count > 0:
            self.means.copy_(torch.stack([self.means[1], self.sums / self.count]))
            self.sums.zero_()
            self.count.zero_()
            self.epochs.add_(1)

    def weights(self) -> Tensor:
        """λ (T,)."""
        older, newer = self.means
        rates = torch.where(older != 0, newer / older, 1.0)
        return torch.where(self.epochs < 2, 1.0, len(self.tasks) * (rates / self.temperature).softmax(0))

    def forward(self, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms, unweighted, and the weights, detached. The gradient is weighted by `batch.share` (see Batch)."""
        output = model(batch)
        terms = loss_terms(output, loss, batch.y)
        losses, rest = tasks_and_rest(terms)
        weights = self.weights()
        ((weights * losses).sum() + rest).mul(batch.share).backward()
        if batch.share:
            mine = losses.detach().to(self.sums) * batch.share
        else:
            mine = torch.zeros_like(self.sums)
        self.sums += summed(mine)  # at every step, so that all ranks have what the first one's checkpoint holds
        self.count += 1
        output.extras |= {f"weight_{name}": weight for name, weight in zip(self.tasks, weights, strict=True)}
        return told(terms, output)
