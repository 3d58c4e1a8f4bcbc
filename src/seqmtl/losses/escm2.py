"""ESCM²: Entire Space Counterfactual Multi-Task Model (Wang et al., SIGIR 2022, https://arxiv.org/abs/2204.05125).

    L = Σ_roots BCE(p_t, y_t) + Σ_{u→t} [ λ_c R_t + λ_g BCE(p_t, y_t) ]

A conditional logit z_t can be compared with a label only where the parent happened, o = y_u = 1. Weighted by the propensity
π = p_u those rows speak for all impressions. With δ = BCE(σ(z_t), y_t) and an imputed error e:

    IPW   R = mean_B( o δ / π )
    DR    R = mean_B( e + o (δ - e) / π ) + λ_imp · mean_B( o (δ - e)² / π )

Unusual: each term is the whole loss, cross-entropies included, so that λ_c = 0, λ_g = 1 is ESMM's to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.graph import at_children, edges, resolve_parents
from seqmtl.nn.probability import at_least_float32, probabilities
from seqmtl.types import Output, Schema


class Observed(nn.Module):
    """Which rows of each edge are seen and what each speaks for, and how the parts of the loss are put together."""

    parent: Tensor
    child: Tensor
    share: Tensor

    def __init__(
        self, schema: Schema, lambda_g: float, pi_min: float, self_normalize: bool, parents: Sequence[int | None] | None
    ) -> None:
        super().__init__()
        if not 0 < pi_min <= 1:
            raise SeqmtlError(
                f"pi_min={pi_min} of the ESCM² loss must be above 0 and at most 1: its inverse is the largest weight of a row"
            )
        found = resolve_parents(schema, parents, "the ESCM² loss", "loss.terms.escm2.parents", alone=True)
        parent, child = edges(found)
        self.pi_min, self.self_normalize = pi_min, self_normalize
        self.register_buffer("parent", torch.tensor(parent, dtype=torch.int64), persistent=False)
        self.register_buffer("child", torch.tensor(child, dtype=torch.int64), persistent=False)
        share = torch.tensor([1.0 if u is None else lambda_g for u in found])
        self.register_buffer("share", share, persistent=False)

    def refuse_ranks(self, world_size: int) -> None:
        """A sum of weights over one rank's rows is not that of the batch."""
        if self.self_normalize and world_size > 1:
            raise SeqmtlError("self_normalize of the ESCM² loss needs all rows of a batch in one process: use trainer.devices=1")

    def weights(self, output: Output, y: Tensor) -> Tensor:
        """o / π of each edge, (B,edges): the parent's end-to-end probability is the propensity, and learns nothing from it."""
        p = probabilities(output.logits[:, self.parent]).detach()
        if p.shape[1]:
            output.extras["clipped"] = (p < self.pi_min).to(p.dtype).mean()
        return y[:, self.parent].to(p.dtype) / p.clamp(min=self.pi_min)

    def conditional(self, output: Output, y: Tensor) -> tuple[Tensor, Tensor]:
        """z and the child's label, (B,edges) each."""
        z = at_least_float32(output.extras["conditional"][:, self.child])
        return z, y[:, self.child].to(z.dtype)

    def mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Of weighted rows, (B,edges) → (edges,)."""
        if self.self_normalize:
            return (weights * values).sum(0) / weights.sum(0).clamp(min=1)  # a weight is 0 or at least 1
        return (weights * values).mean(0)

    def loss(self, output: Output, y: Tensor, risks: Tensor) -> Tensor:
        """Cross-entropies of the end-to-end probabilities, and the risks (edges,) at their children: (T,)."""
        logits = at_least_float32(output.logits)
        per_task = bce(logits, y.to(logits.dtype)).mean(0)  # (T,)
        return self.share * per_task + at_children(risks, self.child, len(per_task))


class IPW(nn.Module):
    """The loss with inverse propensity weights.

    Args:
        lambda_c: weight of the conditional risk R.
        lambda_g: weight of the product's cross-entropy at each child.
        pi_min: propensities below are clipped. Public ports clip 1/π at 15; a click rate below 1/15 then clips most rows.
        self_normalize: divide by the sum of o/π instead of the rows; refused on several ranks.
        parents: index of each task's parent or None, instead of the schema's; those of the model's head.

    Shapes: logits, y, `extras["conditional"]` (B,T) → (T,), each edge's risk at its child. `extras["clipped"]` (): the share of
    propensities below pi_min, a mean over the edges.

    Raises:
        SeqmtlError: there are several tasks and none has a parent, or pi_min is not within (0,1].

    *Differs*: π is detached, so that the risk of a child does not train its parent to look likely. A step deeper than the second
    takes the end-to-end probability of its parent as π. The weights λ are not the paper's, which were not at hand.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"conditional"})
    works_with: ClassVar[str] = "escm2"

    def __init__(
        self,
        schema: Schema,
        lambda_c: float = 0.1,
        lambda_g: float = 1.0,
        pi_min: float = 1 / 15,
        self_normalize: bool = False,
        parents: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__()
        self.lambda_c = lambda_c
        self.observed = Observed(schema, lambda_g, pi_min, self_normalize, parents)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        w = self.observed.weights(output, y)  # (B,edges)
        z, y_child = self.observed.conditional(output, y)
        risks = self.observed.mean(bce(z, y_child), w)  # (edges,)
        return self.observed.loss(output, y, self.lambda_c * risks)


class DR(nn.Module):
    """The doubly robust loss: right in expectation if the propensities are right, or the imputed errors are.

    Args:
        lambda_c, lambda_g, pi_min, self_normalize, parents: as `IPW`.
        lambda_imp: weight of the imputation's own loss within R.
        joint: every part of R trains both towers, as in public ports. Else the risk trains the conditional logit and the
            imputation's own loss the imputation tower: with clipped propensities the risk alone would drive e to 0.
        imputation: what the tower's output i means. `error`: e = softplus(i), without a bound as δ has none; its risk has the
            gradient of IPW's. `label`: e = BCE(σ(z_t), σ(i)), by which rows without the parent step train z_t too.

    Shapes: logits, y, `extras["conditional"]`, `extras["imputation"]` (B,T) → (T,), each edge's risk at its child. `clipped` is
    shown as by `IPW`.

    Raises:
        SeqmtlError: as `IPW`; an unknown imputation; the model's head was built without the tower.

    *Differs*: as `IPW`, and gradients are split as said under `joint`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"conditional", "imputation"})
    works_with: ClassVar[str] = "escm2"

    def __init__(
        self,
        schema: Schema,
        lambda_c: float = 0.1,
        lambda_g: float = 1.0,
        lambda_imp: float = 1.0,
        pi_min: float = 1 / 15,
        self_normalize: bool = False,
        joint: bool = False,
        imputation: str = "error",
        parents: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__()
        if imputation not in ("error", "label"):
            raise SeqmtlError(f"imputation of the ESCM² loss must be error or label, not '{imputation}'")
        self.lambda_c, self.lambda_imp, self.joint, self.label = lambda_c, lambda_imp, joint, imputation == "label"
        self.observed = Observed(schema, lambda_g, pi_min, self_normalize, parents)

    def forward(self, output: Output, y: Tensor) -> Tensor:
        w = self.observed.weights(output, y)  # (B,edges)
        z, y_child = self.observed.conditional(output, y)
        i = self._imputation(output)
        z_fixed, i_fixed = (z, i) if self.joint else (z.detach(), i.detach())
        e = self._error(z, i_fixed)
        r_err = e.mean(0) + self.observed.mean(bce(z, y_child) - e, w)
        r_imp = self.observed.mean((bce(z_fixed, y_child) - self._error(z_fixed, i)).square(), w)
        return self.observed.loss(output, y, self.lambda_c * (r_err + self.lambda_imp * r_imp))

    def _error(self, z: Tensor, i: Tensor) -> Tensor:
        return bce(z, i.sigmoid()) if self.label else F.softplus(i)

    def _imputation(self, output: Output) -> Tensor:
        child = self.observed.child
        if len(child) and "imputation" not in output.extras:
            raise SeqmtlError("the doubly robust loss needs the imputation towers: model.head.imputation=error, or loss=escm2_ipw")
        return at_least_float32(output.extras.get("imputation", output.logits)[:, child])  # (B,edges)


def bce(z: Tensor, y: Tensor) -> Tensor:
    """Of each row; the label may be soft, and learn."""
    return F.binary_cross_entropy_with_logits(z, y, reduction="none")
