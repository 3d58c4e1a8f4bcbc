"""Weights of tasks and rows: options of the cross-entropy, focal loss, uncertainty; and how terms are put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.losses.aitm import Calibrator
from seqmtl.losses.bce import BCE
from seqmtl.losses.escm2 import IPW
from seqmtl.losses.focal import Focal
from seqmtl.losses.terms import Terms
from seqmtl.losses.uncertainty import FORMS, Uncertainty
from seqmtl.runs import run_directory
from seqmtl.steps.terms import loss_terms, objectives, told
from seqmtl.types import Field, Output, Schema, Task

CONF = Path(__file__).parents[2] / "conf"
CHAIN = Schema((Field("a", 2),), (Task("click"), Task("cart", "click"), Task("purchase", "cart")))
PAIR = CHAIN.keep(["click", "purchase"])
P = torch.tensor([[0.3, 0.5, 0.1], [0.6, 0.2, 0.25]], dtype=torch.float64)
Y = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def output(p: Tensor = P) -> Output:
    return Output(p.logit())


# -- cross-entropy


def test_bce_weighs_positive_rows() -> None:
    found = BCE(CHAIN, pos_weight=[3.0, 0.5, 2.0])(output(), Y)
    wanted = [-3 * math.log(0.3) - math.log(0.4), -0.5 * math.log(0.5) - math.log(0.8), -math.log(0.9) - math.log(0.75)]
    assert found.tolist() == pytest.approx([x / 2 for x in wanted])
    both = BCE(CHAIN, weights=[2.0, 1.0, 1.0], pos_weight=[3.0, 0.5, 2.0])(output(), Y)
    assert both[0].item() == pytest.approx(wanted[0])


def test_bce_as_a_mean_over_tasks() -> None:
    torch.testing.assert_close(BCE(CHAIN, reduction="mean")(output(), Y), BCE(CHAIN)(output(), Y) / 3)
    weighted = {"weights": [1.0, 2.0, 4.0]}
    torch.testing.assert_close(BCE(CHAIN, **weighted, reduction="mean")(output(), Y), BCE(CHAIN, **weighted)(output(), Y) / 3)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            partial(BCE, weights=[1.0]),
            "weights of the bce loss has 1 entries for the 3 tasks click, cart, purchase; give one for each",
        ),
        (partial(BCE, pos_weight=[1.0, 2.0]), "pos_weight of the bce loss has 2 entries"),
        (partial(BCE, reduction="average"), "must be sum or mean, not 'average'"),
        (partial(Focal, weights=[1.0]), "weights of the focal loss has 1 entries"),
        (partial(Focal, alpha=[0.25, 0.5]), "alpha of the focal loss has 2 entries"),
        (partial(Focal, alpha=1.5), r"alpha=1\.5 of the focal loss must lie between 0 and 1"),
        (partial(Focal, gamma=-1.0), r"gamma=-1\.0 of the focal loss"),
        (partial(Uncertainty, form="kendall"), "form 'kendall' .* choose from gaussian, classification, log1p, fixed"),
        (partial(Uncertainty, form="fixed"), "a weight for each task, with form=fixed and only there"),
        (partial(Uncertainty, fixed=[1.0, 1.0, 1.0]), "with form=fixed and only there"),
        (partial(Uncertainty, form="fixed", fixed=[1.0]), "fixed of the uncertainty loss has 1 entries"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(make: Callable[..., Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        make(CHAIN)


# -- focal loss


def test_focal_without_focus_is_the_cross_entropy() -> None:
    torch.testing.assert_close(Focal(CHAIN, gamma=0.0, alpha=None)(output(), Y), BCE(CHAIN)(output(), Y))
    half = Focal(CHAIN, gamma=0.0, alpha=0.5, weights=[2.0, 2.0, 4.0])(output(), Y)
    torch.testing.assert_close(half, BCE(CHAIN, weights=[1.0, 1.0, 2.0])(output(), Y))


def test_focal_by_hand() -> None:
    """First task: 0.3 where it happened, 0.6 where it did not."""
    positive, negative = 0.7**2 * -math.log(0.3), 0.6**2 * -math.log(0.4)
    assert Focal(CHAIN)(output(), Y)[0].item() == pytest.approx((0.25 * positive + 0.75 * negative) / 2)
    assert Focal(CHAIN, alpha=None)(output(), Y)[0].item() == pytest.approx((positive + negative) / 2)
    assert Focal(CHAIN, gamma=0.5, alpha=None)(output(), Y)[0].item() == pytest.approx(
        (0.7**0.5 * -math.log(0.3) + 0.6**0.5 * -math.log(0.4)) / 2
    )
    each = Focal(CHAIN, alpha=[0.25, 0.9, 0.5])(output(), Y)
    assert each[1].item() == pytest.approx((0.9 * 0.25 * math.log(2) + 0.1 * 0.04 * -math.log(0.8)) / 2, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_finite_at_the_ends_and_its_gradient_too(gamma: float) -> None:
    logits = torch.tensor([[60.0, -60.0, 60.0], [-60.0, 60.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = Focal(CHAIN, gamma=gamma, alpha=None)(Output(logits), Y)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(logits.grad).all()
    # A row told wrong pulls as in the cross-entropy; one told right hardly.
    assert logits.grad[0, 1].item() == pytest.approx(-0.5, rel=0.01)
    assert abs(logits.grad[0, 0].item()) < 1e-20


def test_focal_has_no_jump_in_its_gradient() -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64).repeat(2, 1).requires_grad_()
    y = torch.stack([torch.ones(33), torch.zeros(33)]).double()
    one = Schema(CHAIN.fields, tuple(Task(str(t)) for t in range(33)))
    assert torch.autograd.gradcheck(lambda z: Focal(one)(Output(z), y), logits)


# -- uncertainty


class Given(nn.Module):
    """A term with the values that it is told."""

    def __init__(self, schema: Schema, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, output: Output, y: Tensor) -> Tensor:
        return self.values


def test_uncertainty_golden() -> None:
    """MAN, eq. 3 with losses .16 and .002: the minimiser is s = ln L."""
    losses = torch.tensor([0.16, 0.002], dtype=torch.float64)
    term = Uncertainty(PAIR, of=partial(Given, values=losses)).double()
    assert term.s.tolist() == [0.0, 0.0]

    def at_s(s: Tensor) -> tuple[float, Tensor]:
        term.s.data = s
        value = term(output(), Y).sum()
        return value.item(), torch.autograd.grad(value, term.s)[0]

    least, gradient = at_s(losses.log())
    assert least == pytest.approx(-3.0235947811, abs=1e-9)
    assert gradient.abs().max() < 1e-12
    for step in torch.tensor([[0.1, 0.0], [-0.1, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64):
        assert at_s(losses.log() + step)[0] > least + 1e-4


def at(form: str, s: list[float], **options: Any) -> tuple[Tensor, Tensor, Output]:
    """Value, gradient of the losses, and the output, with losses .16 and .002."""
    losses = torch.tensor([0.16, 0.002], dtype=torch.float64, requires_grad=True)
    term = Uncertainty(PAIR, of=partial(Given, values=losses), form=form, **options)
    if term.s is not None:
        term.s.data = torch.tensor(s, dtype=torch.float64)
    out = output()
    value = term(out, Y)
    (gradient,) = torch.autograd.grad(value.sum(), losses)
    return value.detach(), gradient, out


@pytest.mark.parametrize("s", [[0.0, 0.0], [-1.5, 0.7]])
def test_the_forms_by_hand_and_the_gradient_of_the_network(s: list[float]) -> None:
    formulas = {
        "gaussian": (lambda loss, s: 0.5 * math.exp(-s) * loss + 0.5 * s, lambda s: 0.5 * math.exp(-s)),
        "classification": (lambda loss, s: math.exp(-s) * loss + 0.5 * s, lambda s: math.exp(-s)),
        "log1p": (lambda loss, s: 0.5 * loss / math.exp(s) + math.log(1 + math.exp(s)), lambda s: 0.5 * math.exp(-s)),
    }
    assert set(formulas) | {"fixed"} == set(FORMS)
    for form, (formula, weight) in formulas.items():
        value, gradient, out = at(form, s)
        assert value.tolist() == pytest.approx([formula(0.16, s[0]), formula(0.002, s[1])])
        assert gradient.tolist() == pytest.approx([weight(s[0]), weight(s[1])])
        assert out.extras["uncertainty_weight_purchase"].item() == pytest.approx(weight(s[1]))
        assert not out.extras["uncertainty_weight_purchase"].requires_grad


def test_fixed_weights_are_trained_by_nothing() -> None:
    value, gradient, out = at("fixed", [], fixed=[2.0, 30.0])
    assert value.tolist() == pytest.approx([0.32, 0.06])
    assert gradient.tolist() == [2.0, 30.0]
    assert out.extras["uncertainty_weight_click"].item() == 2.0
    term = Uncertainty(CHAIN, form="fixed", fixed=[1.0, 0.5, 2.0])
    assert not list(term.parameters())
    torch.testing.assert_close(term(output(), Y), BCE(CHAIN, [1.0, 0.5, 2.0])(output(), Y))


def test_uncertainty_wraps_any_term_of_tasks_and_no_other() -> None:
    term = Uncertainty(CHAIN, of=partial(Calibrator, alpha=1.0))
    torch.testing.assert_close(term(output(), Y), 0.5 * Calibrator(CHAIN, alpha=1.0)(output(), Y))
    with pytest.raises(SeqmtlError, match="the term in its option `of` has no value for each task"):
        Uncertainty(CHAIN, of=partial(Given, values=torch.tensor(1.0)))(output(), Y)
    assert Terms(CHAIN, {"uncertainty": partial(Uncertainty, of=IPW)}).needs == {"conditional"}


def test_its_weights_are_shown_trained_and_of_their_tasks() -> None:
    loss = Terms(CHAIN, {"uncertainty": Uncertainty})
    assert [name for name, _ in loss.named_parameters()] == ["terms.uncertainty.s"]
    out = output()
    terms = loss_terms(out, loss, Y)
    shown = {f"extra/uncertainty_weight_{task}" for task in ("click", "cart", "purchase")}
    assert told(terms, out).keys() == {"uncertainty", *shown}
    assert objectives(terms).keys() == {"0", "1", "2"}
    sum(terms.values()).sum().backward()
    (s,) = loss.parameters()
    wanted = 0.5 - 0.5 * BCE(CHAIN)(output(), Y)  # of ½ e^-s L + ½ s at s = 0
    torch.testing.assert_close(s.grad.double(), wanted)


# -- terms out of the YAMLs


def test_a_term_is_added_to_any_loss(compose: Any) -> None:
    config = compose("model=mmoe", "loss=focal", "+loss/term@loss.terms.calibrator=calibrator")
    check_pairs(config)
    loss = build(config["loss"], CHAIN)
    values = loss(output(), Y)
    assert list(values) == ["focal", "calibrator"]
    torch.testing.assert_close(values["focal"], Focal(CHAIN)(output(), Y))
    torch.testing.assert_close(values["calibrator"], Calibrator(CHAIN)(output(), Y))
    plain = compose("model=mmoe", "loss=focal")
    assert run_directory(config) != run_directory(plain)


@pytest.mark.parametrize("option", ["weights", "pos_weight"])
def test_negative_weights_are_refused(option: str) -> None:
    """The loss would have no lower bound."""
    with pytest.raises(SeqmtlError, match=f"{option} of the bce loss must not be negative"):
        BCE(CHAIN, **{option: [1.0, -1.0, 1.0]})


def test_a_loss_of_two_terms_is_the_same_as_one_with_the_other_added(compose: Any) -> None:
    terms = [
        compose(*overrides)["loss"]["terms"]
        for overrides in (["loss=calibrated"], ["loss=bce", "+loss/term@loss.terms.calibrator=calibrator"], ["model=aitm"])
    ]
    assert terms[0] == terms[1] == terms[2]


def test_what_uncertainty_wraps_is_chosen_like_a_term(compose: Any) -> None:
    overrides = ("loss=uncertainty", "loss/term@loss.terms.uncertainty.of=focal", "loss.terms.uncertainty.of.gamma=1")
    loss = build(compose(*overrides)["loss"], CHAIN)
    torch.testing.assert_close(loss(output(), Y)["uncertainty"], 0.5 * Focal(CHAIN, gamma=1.0)(output(), Y))
    needs = compose("loss=uncertainty", "loss/term@loss.terms.uncertainty.of=escm2_ipw")
    with pytest.raises(SeqmtlError, match="needs conditional"):
        check_pairs(needs)


def defaults(cls: Any) -> dict[str, Any]:
    import inspect

    signature = inspect.signature(cls)
    found = {name: p.default for name, p in signature.parameters.items() if name not in ("schema", "of")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@pytest.mark.parametrize("path", sorted((CONF / "loss" / "term").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_terms_yaml_states_every_option_at_its_default(path: Path) -> None:
    from hydra.utils import get_object

    content = yaml.safe_load(path.read_text())
    stated = {k: v for k, v in content.items() if not k.startswith("_") and k not in ("name", "defaults")}
    stated = {k: None if isinstance(v, str) and v.startswith("${oc.select:") else v for k, v in stated.items()}
    wanted = defaults(get_object(content["_target_"]))
    assert stated.keys() == wanted.keys()
    assert stated == pytest.approx(wanted)


@pytest.mark.parametrize("loss", sorted(p.stem for p in (CONF / "loss").glob("*.yaml")))
def test_losses_are_made_of_terms_of_the_group(loss: str, compose: Any) -> None:
    terms = compose("model=escm2", f"loss={loss}")["loss"]["terms"]
    assert terms
    for term in terms.values():
        assert (CONF / "loss" / "term" / f"{term['name']}.yaml").is_file()
