"""ESCM²: which tower learns from which part of the loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from escm2_cases import FIELDS, PAIR, Loss, only_risk, output, random_output, rows
from torch import Tensor, nn

from seqmtl.losses.escm2 import DR, IPW
from seqmtl.models.escm2 import ESCM2
from seqmtl.models.flat import Flat
from seqmtl.models.mtl import MTLModel
from seqmtl.models.towers import Towers
from seqmtl.types import Batch, Output


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def model() -> MTLModel:
    head = partial(ESCM2, imputation="error", dims=[8], dropout=0.0)
    made = MTLModel(PAIR, 3, Flat, partial(Towers, dims=[8], dropout=0.0), head)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double()


def batch(n: int = 64) -> Batch:
    return Batch(torch.stack([torch.randint(0, f.size, (n,)) for f in FIELDS], 1), rows(n))


def gradients(made: MTLModel, some: Batch, value: Callable[[Output, Tensor], Tensor]) -> dict[str, Tensor]:
    """Of what each tower has alone, and of the embeddings."""
    made.zero_grad()
    value(made(some), some.y).backward()
    found: dict[str, list[Tensor]] = {"embedding": [], "click": [], "purchase": [], "imputation": []}
    for name, parameter in made.named_parameters():
        g = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if name.startswith(("head.towers", "head.imputed")):
            found["imputation"].append(g.flatten())
        elif name.startswith("embedding"):
            found["embedding"].append(g.flatten())
        else:
            found["click"].append(g[0].flatten())
            found["purchase"].append(g[1].flatten())
    return {k: torch.cat(v) for k, v in found.items()}


def taught(found: dict[str, Tensor]) -> set[str]:
    return {k for k, g in found.items() if g.any()}


def risk(loss: Loss, **options: Any) -> Callable[[Output, Tensor], Tensor]:
    term = only_risk(loss, **options)
    return lambda out, y: term(out, y)[1]


def imputations_own(**options: Any) -> Callable[[Output, Tensor], Tensor]:
    with_it, without = risk(DR, **options), risk(DR, lambda_imp=0.0, **options)
    return lambda out, y: with_it(out, y) - without(out, y)


@pytest.mark.parametrize("imputation", ["error", "label"])
@pytest.mark.parametrize("joint", [False, True])
def test_the_risks_never_train_the_parents_tower(joint: bool, imputation: str) -> None:
    made, some = model(), batch()
    for value in (risk(IPW), risk(IPW, self_normalize=True), risk(DR, joint=joint, imputation=imputation)):
        found = gradients(made, some, value)
        assert not found["click"].any()
        assert found["purchase"].any()


@pytest.mark.parametrize("imputation", ["error", "label"])
def test_gradients_are_split_between_the_two_towers(imputation: str) -> None:
    made, some = model(), batch()
    r_err = risk(DR, lambda_imp=0.0, imputation=imputation)
    assert taught(gradients(made, some, r_err)) == {"embedding", "purchase"}
    own = gradients(made, some, imputations_own(imputation=imputation))
    assert own["purchase"].abs().max() < 1e-12  # a difference of two risks
    assert own["imputation"].abs().max() > 1e-3
    assert own["embedding"].abs().max() > 1e-3


@pytest.mark.parametrize("imputation", ["error", "label"])
def test_joint_lets_every_part_train_both_towers(imputation: str) -> None:
    made, some = model(), batch()
    r_err = risk(DR, lambda_imp=0.0, joint=True, imputation=imputation)
    assert taught(gradients(made, some, r_err)) == {"embedding", "purchase", "imputation"}
    own = gradients(made, some, imputations_own(joint=True, imputation=imputation))
    assert min(own[name].abs().max() for name in ("embedding", "purchase", "imputation")) > 1e-3


def test_dr_differs_from_ipw_only_by_what_the_imputation_tells_the_embeddings() -> None:
    made, some = model(), batch()
    ipw, err, dr = (gradients(made, some, value) for value in (risk(IPW), risk(DR, lambda_imp=0.0), risk(DR)))
    for name in ("click", "purchase", "embedding"):
        torch.testing.assert_close(err[name], ipw[name])
    for name in ("click", "purchase"):
        torch.testing.assert_close(dr[name], ipw[name])
    assert (dr["embedding"] - ipw["embedding"]).abs().max() > 1e-3


def test_in_label_mode_rows_without_a_click_teach_the_conditional_step() -> None:
    out, y = random_output(), rows()
    unclicked = y[:, 0] == 0
    for mode, learns in (("error", False), ("label", True)):
        z = out.extras["conditional"].clone().requires_grad_()
        tried = Output(out.logits, {"conditional": z, "imputation": out.extras["imputation"]})
        (gradient,) = torch.autograd.grad(only_risk(DR, imputation=mode)(tried, y)[1], z)
        assert gradient[unclicked, 1].any() == learns
        # Where there was no click it is pulled towards the imputed label.
        if learns:
            wanted = (z[:, 1].sigmoid() - out.extras["imputation"][:, 1].sigmoid()) / len(y)
            torch.testing.assert_close(gradient[unclicked, 1], wanted[unclicked].detach())


def test_a_shrinking_imputation_is_what_joint_training_does_with_clipped_propensities() -> None:
    """Why gradients are split: the click rate is below the clip, so 1 - o/π is positive on average."""
    p, y = torch.full((1000,), 0.03).double(), torch.zeros(1000, 2).double()
    y[:30, 0] = 1
    for joint in (True, False):
        i = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
        value = only_risk(DR, lambda_imp=0.0, joint=joint)(output(p, torch.zeros(1000).double(), i), y)[1]
        (gradient,) = torch.autograd.grad(value, i)
        assert gradient.sum().item() == pytest.approx((1 - 0.03 * 15) / 2 if joint else 0.0)  # softplus has slope 1/2 at 0
