"""The terms of the losses: hand-computed values and gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.losses.aitm import Calibrator
from seqmtl.losses.apem import Dependence
from seqmtl.losses.bce import BCE
from seqmtl.losses.terms import Terms
from seqmtl.types import Field, Output, Schema, Task

FIELDS = (Field("a", 2),)
CHAIN = Schema(FIELDS, (Task("click"), Task("cart", "click"), Task("purchase", "cart")))
TREE = Schema(FIELDS, (Task("watch"), Task("click", "watch"), Task("enter", "watch")))
LOOSE = Schema(FIELDS, (Task("click"), Task("like"), Task("share")))

P = torch.tensor([[0.3, 0.5, 0.1], [0.6, 0.2, 0.25]], dtype=torch.float64)
Y = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def output(p: Tensor = P) -> Output:
    return Output(p.logit())


def test_bce_is_the_sum_over_tasks_of_the_mean_over_the_batch() -> None:
    wanted = -(Y * P.log() + (1 - Y) * (1 - P).log()).mean(0)
    assert BCE(CHAIN)(output(), Y).sum().item() == pytest.approx(wanted.sum().item())
    weights = [1.0, 0.5, 2.0]
    assert BCE(CHAIN, weights)(output(), Y).sum().item() == pytest.approx((wanted * torch.tensor(weights)).sum().item())
    with pytest.raises(SeqmtlError, match="2 entries for the 3 tasks"):
        BCE(CHAIN, [1.0, 1.0])


def test_calibrator_golden() -> None:
    assert Calibrator(CHAIN, alpha=1.0)(output(), Y).sum().item() == pytest.approx(0.125, abs=1e-12)
    assert Calibrator(CHAIN)(output(), Y).sum().item() == pytest.approx(0.075, abs=1e-12)
    assert Calibrator(CHAIN, alpha=0.0)(output(), Y).sum().item() == 0.0
    monotone = torch.tensor([[0.9, 0.5, 0.1], [0.3, 0.3, 0.2]])
    assert Calibrator(CHAIN)(output(monotone), Y).sum().item() == 0.0


def test_calibrator_gradient_is_that_of_the_violating_rows() -> None:
    p = P.clone().requires_grad_()
    Calibrator(CHAIN, alpha=1.0)(Output(p.logit()), Y).sum().backward()
    wanted = torch.tensor([[-0.5, 0.5, 0.0], [0.0, -0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(p.grad, wanted)


def test_calibrator_on_a_tree_compares_with_the_parent_only() -> None:
    p = torch.tensor([[0.5, 0.2, 0.4]], dtype=torch.float64)
    assert Calibrator(TREE, alpha=1.0)(output(p), Y[:1]).sum().item() == 0.0
    assert Calibrator(TREE, alpha=1.0, parents=[None, 0, 1])(output(p), Y[:1]).sum().item() == pytest.approx(0.2)


def test_dependence_golden() -> None:
    first, second = ([None, 0, None], [None, None, 1])
    assert Dependence(CHAIN, parents=first)(output(), Y).sum().item() == pytest.approx(0.10, abs=1e-12)
    assert Dependence(CHAIN, parents=second)(output(), Y).sum().item() == pytest.approx(0.18125, abs=1e-12)
    assert Dependence(CHAIN)(output(), Y).sum().item() == pytest.approx(0.28125, abs=1e-12)
    assert Dependence(CHAIN, sigma=5.0)(output(), Y).sum().item() == pytest.approx(1.40625, abs=1e-12)
    assert Dependence(CHAIN, sigma=0.0)(output(), Y).sum().item() == 0.0


def test_dependence_is_a_proper_score() -> None:
    """Its minimum is at the share of rows where the parent happened and the child did not (APEM, eq. 21's sign)."""
    pair = Schema(FIELDS, (Task("click"), Task("purchase", "click")))
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    p_click = torch.tensor(0.75, dtype=torch.float64)
    grid = torch.linspace(0.01, 0.74, 74, dtype=torch.float64)
    values = [Dependence(pair)(output(torch.stack([p_click, p]).expand(4, 2)), y).sum().item() for p in grid]
    assert grid[values.index(min(values))].item() == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize(
    ("term", "option"),
    [(Calibrator, "loss.terms.calibrator.parents"), (Dependence, "loss.terms.dependence.parents")],
)
def test_no_edge_is_refused_in_words(term: type, option: str) -> None:
    with pytest.raises(SeqmtlError, match="none of click, like, share has a parent") as e:
        term(LOOSE)
    assert option in str(e.value)
    term(LOOSE, parents=[None, 0, 0])


def full(alpha: float = 0.6, sigma: float = 1.0) -> Terms:
    terms = {"bce": BCE, "calibrator": partial(Calibrator, alpha=alpha), "dependence": partial(Dependence, sigma=sigma)}
    return Terms(CHAIN, terms)


def test_terms_sum_to_the_loss() -> None:
    values = full()(output(), Y)
    assert list(values) == ["bce", "calibrator", "dependence"]
    assert values["bce"].sum().item() == pytest.approx(BCE(CHAIN)(output(), Y).sum().item())
    total = sum(value.sum() for value in values.values())
    assert total.item() == pytest.approx(values["bce"].sum().item() + 0.075 + 0.28125)
    # Off, it is the sum of the BCEs and has its gradient.
    for weights in ({"alpha": 0.0, "sigma": 0.0}, None):
        logits = P.logit().requires_grad_()
        loss = Terms(CHAIN, {"bce": BCE}) if weights is None else full(**weights)
        sum(value.sum() for value in loss(Output(logits), Y).values()).backward()
        torch.testing.assert_close(logits.grad, (P - Y) / 2)


def test_twice_the_batch_is_the_same_loss() -> None:
    """A calibrator that sums over the batch, as two ports do, would double."""
    once, twice = full()(output(), Y), full()(output(P.repeat(2, 1)), Y.repeat(2, 1))
    for name, value in once.items():
        torch.testing.assert_close(value, twice[name])


def test_needs_are_those_of_all_terms() -> None:
    class Imputation(BCE):
        needs = frozenset({"imputed_error"})

    assert Terms.needs == frozenset()
    assert Terms(CHAIN, {"bce": BCE, "dr": Imputation}).needs == {"imputed_error"}


def test_half_precision_and_extreme_logits_stay_finite_and_float32() -> None:
    logits = torch.tensor([[60.0, -60.0, 60.0], [-60.0, 60.0, -60.0]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = full()(Output(logits), Y)
        total = sum(value.sum() for value in values.values())
    total.backward()
    assert all(v.dtype == torch.float32 and torch.isfinite(v).all() for v in values.values())
    assert torch.isfinite(logits.grad).all()
    # A rate of 2e-4 is not rounded away: bfloat16 probabilities of these two are equal.
    close = torch.tensor([[2.00e-4, 2.001e-4]]).logit()
    pair = Schema(FIELDS, (Task("click"), Task("purchase", "click")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Calibrator(pair, alpha=1.0)(Output(close), Y[:1, :2]).sum().item() == pytest.approx(1e-7, rel=0.05)
