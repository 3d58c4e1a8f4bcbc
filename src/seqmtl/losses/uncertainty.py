"""Uncertainty weighting (Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018,
https://arxiv.org/abs/1705.07115), as MAN combines its tasks (eq. 3).

    L = Σ_t ½ e^(-s_t) L_t + ½ s_t,   s_t = log σ_t²

At the optimum s_t = ln L_t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.losses.bce import BCE, for_each_task
from seqmtl.types import Output, Schema

FORMS = ("gaussian", "classification", "log1p", "fixed")


class Uncertainty(nn.Module):
    """Weighs another term's tasks, by weights that are trained with the model.

    Args:
        of: a partial of the term, finished as of(schema), with one value for each task.
        form: `gaussian` ½ e^-s L + ½ s (Kendall's for regression, which MAN takes); `classification` e^-s L + ½ s (Kendall's for
            classes); `log1p` ½ e^-s L + log(1 + e^s), which is never negative (Liebel and Körner 2018,
            https://arxiv.org/abs/1805.06334); `fixed` w_t L_t, nothing trained.
        fixed: w_t, one for each task, for the form `fixed`.

    Shapes: → (T,). `extras["uncertainty_weight_<task>"]` (): the factor of L_t, detached.

    Raises:
        SeqmtlError: an unknown form, weights that do not fit it or the tasks, or a term without a value for each task.
    """

    weighs = True  # the tasks, by values that may turn negative: no step can weigh them once more by how they fall
    s: nn.Parameter | None
    fixed: Tensor | None

    def __init__(
        self,
        schema: Schema,
        of: Callable[..., Any] = BCE,
        form: str = "gaussian",
        fixed: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise SeqmtlError(f"form '{form}' of the uncertainty loss is unknown; choose from {', '.join(FORMS)}")
        if (form == "fixed") != (fixed is not None):
            raise SeqmtlError("the uncertainty loss takes the option fixed, a weight for each task, with form=fixed and only there")
        self.of = of(schema)
        self.needs: frozenset[str] = frozenset(getattr(self.of, "needs", ()))
        self.tasks, self.form = schema.task_names, form
        weights = None if fixed is None else for_each_task(schema, fixed, "uncertainty", "fixed")
        self.register_buffer("fixed", weights, persistent=False)
        self.s = nn.Parameter(torch.zeros(len(self.tasks))) if fixed is None else None

    def forward(self, output: Output, y: Tensor) -> Tensor:
        of_tasks: Tensor = self.of(output, y)  # (T,)
        if of_tasks.shape != (len(self.tasks),):
            raise SeqmtlError("the uncertainty loss weighs tasks, but the term in its option `of` has no value for each task")
        if self.s is None:
            assert self.fixed is not None
            weights, price = self.fixed, torch.zeros_like(self.fixed)
        else:
            weights = (-self.s).exp() * (1.0 if self.form == "classification" else 0.5)
            price = F.softplus(self.s) if self.form == "log1p" else 0.5 * self.s
        output.extras |= {f"uncertainty_weight_{task}": w for task, w in zip(self.tasks, weights.detach().unbind(), strict=True)}
        return weights * of_tasks + price  # MAN eq. 3
