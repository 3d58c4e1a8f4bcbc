"""A click and a purchase as ESCM²'s losses read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqmtl.nn.probability import logit_and
from seqmtl.types import Field, Output, Schema, Task

FIELDS = (Field("a", 9), Field("b", 7))
PAIR = Schema(FIELDS, (Task("click"), Task("purchase", "click")))

Loss = Callable[..., Any]


def only_risk(loss: Loss, **options: Any) -> Any:
    """The child's element of the loss is then its conditional risk, nothing else."""
    return loss(PAIR, **({"lambda_c": 1.0, "lambda_g": 0.0} | options))


def output(propensity: Tensor, z: Tensor, i: Tensor | None = None) -> Output:
    click = propensity.logit() if (propensity < 1).all() else torch.full_like(propensity, 45.0)
    extras = {"conditional": torch.stack([click, z], 1)}
    if i is not None:
        extras["imputation"] = torch.stack([torch.zeros_like(i), i], 1)
    return Output(torch.stack([click, logit_and(click, z)], 1), extras)


def rows(n: int = 40, tasks: int = 2) -> Tensor:
    y = (torch.rand(n, tasks) < 0.6).double().cumprod(1)
    assert 0 < y[:, -1].sum() < y[:, 0].sum() < n
    return y


def random_output(n: int = 40) -> Output:
    return output(torch.rand(n).double() * 0.8 + 0.1, torch.randn(n).double(), torch.randn(n).double())
