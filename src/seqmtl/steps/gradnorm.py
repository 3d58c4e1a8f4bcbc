"""GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks
(Chen et al., ICML 2018, https://arxiv.org/abs/1711.02257, Algorithm 1).

    n_t = |∇ w_t L_t|,   r_t = (L_t / L_t(0)) / mean_t(L_t / L_t(0)),   L_grad = Σ_t | n_t - mean_t(n_t) r_t^α |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import watch
from seqmtl.steps.gradients import above_tables, add, gramian, jacobian, read_vectors
from seqmtl.steps.ranks import summed
from seqmtl.steps.terms import Loss, loss_terms, tasks_and_rest, told
from seqmtl.types import Batch, Schema

LEAST = 1e-3  # a weight at 0 or below would train its task no more, or away from its labels


class GradNorm(nn.Module):
    """Trains a weight for each task so that all learn at the same rate: all gradients of equal length, times r_t^α.

    Args:
        alpha: how strongly a task that lags behind is pulled; the paper has 1.5 and, where tasks are alike, 0.12.
        lr: of the weights: each moves by lr · (its gradient's length ÷ the mean length) a step, up or down.

    The lengths are those at the vectors that are read from the embedding tables. Terms of the loss that belong to no task keep
    the weight 1. The weights are logged as train/extra/weight_<task>.

    Raises:
        SeqmtlError: `lr` or `alpha` below 0.

    *Differs*: the paper's shared layer is the last one below the towers. The weights have a descent of their own, without the
    run's optimizer: batch, decay and precision shall not touch them, and ∂L_grad/∂w_t, a length, depends on the scale of the loss,
    so that it is divided by the mean length.
    """

    needs_shared = True
    weighs_by_ratios = True  # of the losses, which must stay above 0
    w: Tensor
    initial: Tensor
    started: Tensor

    def __init__(self, schema: Schema, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        if alpha < 0 or lr < 0:
            raise SeqmtlError(f"step.alpha and step.lr must be at least 0, not {alpha} and {lr}")
        self.tasks, self.alpha, self.lr = schema.task_names, alpha, lr
        self.register_buffer("w", torch.ones(len(self.tasks)))
        self.register_buffer("initial", torch.ones(len(self.tasks)))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms, unweighted, and the weights, detached. The gradient is weighted by `batch.share` (see Batch)."""
        with watch(model) as lookups:
            output = model(batch)
        terms = loss_terms(output, loss, batch.y)
        losses, rest = tasks_and_rest(terms)
        weighted = [*(self.w * losses * batch.share), rest * batch.share]
        above = above_tables(model, loss)
        found, of_sum = jacobian([value for value in weighted if value.requires_grad], read_vectors(lookups), above)
        add(above, of_sum)
        torch.autograd.backward([vectors for vectors, _ in found], [gradients.sum(0) for _, gradients in found])
        squares = gramian(gradients for _, gradients in found).diagonal()[: len(self.tasks)]
        mine = torch.nan_to_num(losses.detach().double()) * batch.share
        squares, values = summed(torch.stack([squares, mine]))
        used = self.w.clone()
        self.update(squares.sqrt(), values)
        output.extras |= {f"weight_{name}": weight for name, weight in zip(self.tasks, used, strict=True)}
        return told(terms, output)

    def update(self, lengths: Tensor, losses: Tensor) -> None:
        """One step of the weights, by n (T,) and L (T,) of the global batch."""
        self.initial.copy_(torch.where(self.started, self.initial, losses))
        self.started.fill_(True)
        progress = losses / self.initial
        target = lengths.mean() * (progress / progress.mean()) ** self.alpha  # a constant
        slope = (lengths - target).sign() * lengths / self.w  # ∂L_grad/∂w, as n_t = w_t |∇L_t|
        w = (self.w - self.lr * slope / (lengths / self.w).mean()).clamp(min=LEAST)
        w = w * len(w) / w.sum()
        self.w.copy_(torch.where(torch.isfinite(w).all(), w, self.w))
