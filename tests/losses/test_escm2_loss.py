"""ESCM²: enumeration over what may happen, propensities, and how the parts are put together."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from escm2_cases import FIELDS, PAIR, Loss, only_risk, output, random_output, rows
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.losses.bce import BCE
from seqmtl.losses.escm2 import DR, IPW
from seqmtl.losses.terms import Terms
from seqmtl.nn.probability import logit_and
from seqmtl.steps.terms import loss_terms, told
from seqmtl.types import Output, Schema, Task

CHAIN = Schema(FIELDS, (Task("click"), Task("cart", "click"), Task("purchase", "cart")))
LOOSE = Schema(FIELDS, (Task("click"), Task("like"), Task("share")))

# Three impressions: how likely a click is, a purchase after it, and what the model says of the latter.
CLICK = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
PURCHASE = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
SAID = torch.tensor([0.25, 0.5, 0.2], dtype=torch.float64)
IDEAL = 0.5573953090  # the conditional cross-entropy if every impression were clicked
DELTA = -(PURCHASE * SAID.log() + (1 - PURCHASE) * (1 - SAID).log())  # of each impression, in expectation


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def expected(loss: Any, out: Output) -> float:
    """Exact: the 27 outcomes of three impressions (no click; a click; a purchase too), each with its probability."""
    total = 0.0
    for outcome in itertools.product(range(3), repeat=3):
        o = torch.tensor([float(x > 0) for x in outcome], dtype=torch.float64)
        y = torch.tensor([float(x > 1) for x in outcome], dtype=torch.float64)
        chance = torch.where(o > 0, CLICK * torch.where(y > 0, PURCHASE, 1 - PURCHASE), 1 - CLICK).prod()
        total += chance.item() * loss(out, torch.stack([o, y], 1))[1].item()
    return total


def inverse_softplus(e: Tensor) -> Tensor:
    return e.expm1().log()


def test_the_ideal_risk() -> None:
    assert DELTA.mean().item() == pytest.approx(IDEAL, abs=1e-10)


def test_ipw_with_the_true_propensities_is_unbiased() -> None:
    assert expected(only_risk(IPW), output(CLICK, SAID.logit())) == pytest.approx(IDEAL, abs=1e-10)
    # With others it is not, nor is the mean over clicked rows.
    assert abs(expected(only_risk(IPW), output(torch.full_like(CLICK, 0.4), SAID.logit())) - IDEAL) > 0.01
    assert expected(only_risk(IPW), output(torch.ones(3).double(), SAID.logit())) == pytest.approx(0.2652074769, abs=1e-9)


@pytest.mark.parametrize(
    ("propensity", "imputed"),
    [(CLICK, torch.tensor([0.7, 0.1, 0.4]).double()), (torch.full_like(CLICK, 0.4), DELTA)],
    ids=["true propensities, wrong imputation", "wrong propensities, true imputation"],
)
def test_dr_is_unbiased_if_one_of_the_two_is_right(propensity: Tensor, imputed: Tensor) -> None:
    risk = only_risk(DR, lambda_imp=0.0)
    assert expected(risk, output(propensity, SAID.logit(), inverse_softplus(imputed))) == pytest.approx(IDEAL, abs=1e-9)


def test_dr_is_biased_if_both_are_wrong() -> None:
    risk = only_risk(DR, lambda_imp=0.0)
    wrong = output(torch.full_like(CLICK, 0.4), SAID.logit(), inverse_softplus(torch.tensor([0.7, 0.1, 0.4]).double()))
    assert abs(expected(risk, wrong) - IDEAL) > 0.01


def test_label_mode_is_unbiased_with_the_true_propensities_too() -> None:
    risk = only_risk(DR, lambda_imp=0.0, imputation="label")
    assert expected(risk, output(CLICK, SAID.logit(), torch.randn(3).double())) == pytest.approx(IDEAL, abs=1e-9)
    # With the true conditional rates as labels any propensities will do.
    assert expected(risk, output(torch.full_like(CLICK, 0.4), SAID.logit(), PURCHASE.logit())) == pytest.approx(IDEAL, abs=1e-9)


@pytest.mark.parametrize("loss", [partial(IPW, self_normalize=True), IPW, DR, partial(DR, imputation="label", joint=True)])
def test_without_the_conditional_risk_it_is_esmm_to_the_last_bit(loss: Loss) -> None:
    out, y = random_output(), rows()
    assert torch.equal(loss(PAIR, lambda_c=0.0, lambda_g=1.0)(out, y), BCE(PAIR)(out, y))


def test_the_parts_are_weighted_as_said() -> None:
    out, y = random_output(), rows()
    bce = BCE(PAIR)(out, y)
    risk, more = only_risk(DR)(out, y)[1], DR(PAIR, lambda_c=0.3, lambda_g=0.5)(out, y)
    torch.testing.assert_close(more, torch.stack([bce[0], 0.3 * risk + 0.5 * bce[1]]))
    err, imp = only_risk(DR, lambda_imp=0.0)(out, y)[1], only_risk(DR, lambda_imp=2.0)(out, y)[1]
    assert imp > err
    torch.testing.assert_close(only_risk(DR)(out, y)[1], (err + imp) / 2)
    twice = Output(out.logits.repeat(2, 1), {k: v.repeat(2, 1) for k, v in out.extras.items() if v.ndim})
    torch.testing.assert_close(DR(PAIR)(twice, y.repeat(2, 1)), DR(PAIR)(out, y))


def test_if_all_is_seen_both_are_the_plain_mean() -> None:
    z = torch.randn(20).double()
    y = torch.stack([torch.ones(20), (torch.arange(20) % 3 == 0).float()], 1).double()
    out = output(torch.ones(20).double(), z, torch.randn(20).double())
    plain = F.binary_cross_entropy_with_logits(z, y[:, 1])
    for loss in (only_risk(IPW), only_risk(DR, lambda_imp=0.0), only_risk(DR, lambda_imp=0.0, imputation="label")):
        torch.testing.assert_close(loss(out, y)[1], plain)


def test_the_imputations_own_loss() -> None:
    """Two clicked rows and one that is not, by hand."""
    p, z, i = torch.tensor([[0.5, 0.25, 0.8], [0.4, -0.2, 1.0], [0.3, -1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]).double()
    delta = [-math.log(1 / (1 + math.exp(-0.4))), -math.log(1 - 1 / (1 + math.exp(0.2)))]
    e = [math.log(1 + math.exp(0.3)), math.log(1 + math.exp(-1.0))]
    wanted = ((delta[0] - e[0]) ** 2 / 0.5 + (delta[1] - e[1]) ** 2 / 0.25) / 3
    out = output(p, z, i)
    found = only_risk(DR)(out, y)[1] - only_risk(DR, lambda_imp=0.0)(out, y)[1]
    assert found.item() == pytest.approx(wanted, abs=1e-12)


# -- propensities


def test_clipping_is_counted_and_shown() -> None:
    p = torch.tensor([0.01, 0.05, 0.2, 0.9]).double()
    y = torch.tensor([[1.0, 0.0]] * 4).double()
    z = torch.zeros(4).double()
    for pi_min, share, weights in (
        (1 / 15, 0.5, 15 + 15 + 5 + 1 / 0.9),
        (0.02, 0.25, 50 + 20 + 5 + 1 / 0.9),
        (1e-3, 0.0, 126 + 1 / 0.9 - 1),
    ):
        out = output(p, z)
        loss = only_risk(IPW, pi_min=pi_min)
        assert loss(out, y)[1].item() == pytest.approx(math.log(2) * weights / 4)
        assert out.extras["clipped"].item() == pytest.approx(share)
        assert not out.extras["clipped"].requires_grad
    out = output(p, z)
    terms = loss_terms(out, Terms(PAIR, {"escm2": IPW}), y)
    assert told(terms, out).keys() == {"escm2", "extra/clipped"}


@pytest.mark.parametrize("pi_min", [0.0, -0.1, 1.1])
def test_a_clip_that_is_no_probability_is_refused(pi_min: float) -> None:
    with pytest.raises(SeqmtlError, match=r"pi_min=.* must be above 0 and at most 1"):
        DR(PAIR, pi_min=pi_min)


def test_the_propensity_of_a_deeper_step_is_end_to_end() -> None:
    z = torch.tensor([[0.5, -0.4, 0.3]]).double()
    logits = torch.stack([z[:, 0], logit_and(z[:, 0], z[:, 1]), logit_and(logit_and(z[:, 0], z[:, 1]), z[:, 2])], 1)
    y = torch.tensor([[1.0, 1.0, 0.0]]).double()
    found = IPW(CHAIN, lambda_c=1.0, lambda_g=0.0, pi_min=1e-6)(Output(logits, {"conditional": z}), y)
    p = z.sigmoid()
    assert found[1].item() == pytest.approx((-(p[0, 1]).log() / p[0, 0]).item())
    assert found[2].item() == pytest.approx((-(1 - p[0, 2]).log() / (p[0, 0] * p[0, 1])).item())


def test_self_normalized_weights() -> None:
    out, y = random_output(), rows()
    for make in (IPW, partial(DR, lambda_imp=0.0), DR):
        loss = only_risk(make, self_normalize=True, pi_min=1e-9)
        value = loss(out, y)[1]
        # Propensities that are all half as large change no weighted mean.
        half = Output(torch.stack([(out.logits[:, 0].sigmoid() / 2).logit(), out.logits[:, 1]], 1), dict(out.extras))
        torch.testing.assert_close(loss(half, y)[1], value)
        assert not torch.isclose(only_risk(make, pi_min=1e-9)(half, y)[1], only_risk(make, pi_min=1e-9)(out, y)[1])
    # Of a single click only its own error is left, whatever its weight.
    one = torch.zeros_like(y)
    one[3, 0] = 1.0
    wanted = F.softplus(out.extras["conditional"][3, 1])
    torch.testing.assert_close(only_risk(IPW, self_normalize=True)(out, one)[1], wanted)
    # No click in the batch: nothing to learn from, and nothing that is not a number.
    assert only_risk(IPW, self_normalize=True)(out, torch.zeros_like(y))[1].item() == 0.0


def test_options_are_refused_in_words() -> None:
    with pytest.raises(SeqmtlError, match="must be error or label, not 'labels'"):
        DR(PAIR, imputation="labels")
    for loss in (IPW, DR):
        with pytest.raises(SeqmtlError, match=r"loss\.terms\.escm2\.parents=\[null,0,0\]"):
            loss(LOOSE)
        assert loss(LOOSE, parents=[None, 0, 0]).observed.child.tolist() == [1, 2]
    with pytest.raises(SeqmtlError, match=r"model\.head\.imputation=error"):
        DR(PAIR)(output(CLICK, SAID.logit()), torch.zeros(3, 2))


@pytest.mark.parametrize("loss", [IPW, DR, partial(DR, imputation="label", joint=True)])
def test_half_precision_and_extreme_logits_stay_finite_and_float32(loss: Loss) -> None:
    ends = torch.tensor([[60.0, -60.0], [-60.0, 60.0], [60.0, 60.0], [-60.0, -60.0]])
    z, i = (ends.clone().bfloat16().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = Output(torch.stack([z[:, 0], logit_and(z[:, 0], z[:, 1])], 1), {"conditional": z, "imputation": i})
        value = loss(PAIR)(out, torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert torch.isfinite(z.grad).all()
    assert i.grad is None or torch.isfinite(i.grad).all()
