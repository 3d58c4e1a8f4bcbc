"""Gradient balancers: the objectives' gradients are combined where they meet, by weights that their products decide.

    G = J Jᵀ,   w = weighting(G),   gradient = Σ_t w_t ∇L_t

The weightings are those of TorchJD (Quinton & Rey, 2024, https://arxiv.org/abs/2406.16232; its docs name each one's paper) and
Nash-MTL (nash_mtl.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import Lookup, watch
from seqmtl.steps.gradients import above_tables, add, combine, gramian, jacobian, read_vectors, trained
from seqmtl.steps.ranks import from_first, summed, world_size
from seqmtl.steps.terms import Loss, loss_terms, objectives, told
from seqmtl.types import Batch, Schema

Weighting = Callable[[Tensor], Tensor]

PLACES = ("representation", "parameters")


class Balance:
    """One forward, a backward for each objective: every task, and every term of the loss that belongs to no task.

    Args:
        weighting: finished without arguments, then called as weighting(G) → w (n,), once a step, on the CPU in float64. G (n,n) is
            divided by the mean of its diagonal: only directions and relative lengths count.
        at: representation: at the vectors that are read from the embedding tables. The tables get the weighted combination, all
            above them the plain sum. parameters: at the elements of the model's parameters where two objectives or more have a
            gradient in this batch; these get the combination, all others the plain sum.

    An objective without a gradient there keeps the weight 1 and is not shown to the weighting; so do all where a gradient is not
    finite, or where only one has any: then the step is the plain one. The weights are logged as train/extra/weight_<objective>.

    Raises:
        SeqmtlError: an unknown `at`, or what the weighting needs is not installed.

    *Differs*: the papers take as shared what is below the last shared layer. Here that is the tables, which every model has and
    which hold nearly all parameters; experts and towers are trained by what reads them.
    """

    needs_shared = True

    def __init__(self, schema: Schema, weighting: Callable[[], Weighting], at: str = "representation") -> None:
        if at not in PLACES:
            raise SeqmtlError(f"step.at={at} is unknown; choose from {', '.join(PLACES)}")
        self.tasks, self.at = schema.task_names, at
        try:
            self.weighting = weighting()
        except ImportError as e:
            raise SeqmtlError(f"{e}\nThis step solves its problem by an optional library: pip install 'seqmtl[balancers]'") from e

    def __call__(self, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms and the objectives' weights, detached. The gradient is weighted by `batch.share` (see Batch)."""
        with watch(model) as lookups:
            output = model(batch)
        terms = loss_terms(output, loss, batch.y)
        losses = {self._name(key): value * batch.share for key, value in objectives(terms).items() if value.requires_grad}
        values = list(losses.values())
        if self.at == "representation":
            weights = self._at_representation(model, loss, values, lookups)
        else:
            weights = self._at_parameters(model, loss, values)
        output.extras |= {f"weight_{name}": weight for name, weight in zip(losses, weights, strict=True)}
        return told(terms, output)

    def _name(self, key: str) -> str:
        return self.tasks[int(key)] if key.isdigit() else key

    def _at_representation(self, model: nn.Module, loss: Loss, losses: Sequence[Tensor], lookups: Sequence[Lookup]) -> Tensor:
        above = above_tables(model, loss)
        found, of_sum = jacobian(losses, read_vectors(lookups), above)
        add(above, of_sum)
        weights = self.weights(summed(gramian(gradients for _, gradients in found)))  # each row is on one rank: they add up
        down = [combine(weights, gradients) for _, gradients in found]
        torch.autograd.backward([vectors for vectors, _ in found], down)  # into the tables
        return weights

    def _at_parameters(self, model: nn.Module, loss: Loss, losses: Sequence[Tensor]) -> Tensor:
        others = trained(loss)
        found, of_sum = jacobian(losses, trained(model), others)
        add(others, of_sum)
        for _, gradients in found:
            summed(gradients)  # of the global batch, on every rank
        weights = self.weights(gramian(gradients * _shared(gradients) for _, gradients in found))
        for parameter, gradients in found:
            combined = torch.where(_shared(gradients), combine(weights, gradients), gradients.sum(0))
            add([parameter], [combined / world_size()])  # the ranks' gradients are summed after the step
        return weights

    def weights(self, products: Tensor) -> Tensor:
        """G (n,n), the same on all ranks → w (n,), too."""
        g = products.cpu()
        weights = torch.ones(len(g), dtype=g.dtype)
        pulls = g.diagonal() > 0  # a row of zeros would be the shortest of all gradients, and decide alone
        if torch.isfinite(g).all() and pulls.sum() > 1:
            g = g[pulls][:, pulls]
            chosen = self.weighting(g / g.diagonal().mean()).to(weights)
            if torch.isfinite(chosen).all():
                weights[pulls] = chosen
        return from_first(weights.to(products.device))  # PCGrad draws an order


def _shared(gradients: Tensor) -> Tensor:
    """Where two objectives or more have a gradient: (n,…) → (…)."""
    return (gradients != 0).sum(0) > 1
