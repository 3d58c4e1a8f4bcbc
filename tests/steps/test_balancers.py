"""Where the balancers act: gradients against explicit ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from balancer_cases import (
    PAIR,
    STEPS,
    USED,
    Compose,
    Small,
    W,
    bce,
    fixed,
    gradients,
    node,
    of_each,
    ones,
    small_and_batch,
    step_of,
)
from model_cases import CHAIN, TREE, make_batch, make_model
from torch import Tensor, nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.steps.balance import Balance
from seqmtl.steps.dwa import DWA
from seqmtl.steps.gradnorm import GradNorm
from seqmtl.steps.plain import Plain
from seqmtl.steps.terms import objectives
from seqmtl.types import Batch, Output


@pytest.fixture
def small() -> tuple[Small, Batch]:
    return small_and_batch()


def test_tables_get_the_weighted_gradients_and_all_above_the_sum(small: tuple[Small, Batch]) -> None:
    model, batch = small
    seen = []

    def weighting(g: Tensor) -> Tensor:
        seen.append(g)
        return torch.tensor(W, dtype=g.dtype)

    found, terms = gradients(model, Balance(PAIR, lambda: weighting), bce, batch)
    each = of_each(model, batch, USED)
    for name in USED:
        w = W if name in ("embedding.weight", "own.weight") else (1.0, 1.0, 1.0)
        torch.testing.assert_close(found[name], sum(x * g[name] for x, g in zip(w, each, strict=True)), msg=name)
    assert found["idle.weight"] is None
    assert [terms[f"extra/weight_{n}"].item() for n in ("click", "buy", "spread")] == list(W)
    # The products are those of the gradients at what is read, over the mean of the squares.
    vectors = model.embedding(batch.fields).detach().requires_grad_()
    own = model.own(batch.fields[:, :1]).detach().requires_grad_()
    h = model.shared(vectors.flatten(1)).tanh()
    logits = torch.cat([model.towers[0](torch.cat([h, own.flatten(1)], 1)), model.towers[1](h)], 1)
    rows = []
    for value in objectives(bce(Output(logits), batch.y)).values():
        grads = torch.autograd.grad(value, [vectors, own], retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in grads]).double())
    g = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(seen[0], g / g.diagonal().mean(), rtol=1e-5, atol=1e-7)


def test_at_parameters_the_shared_elements_get_the_weighted_gradients(small: tuple[Small, Batch]) -> None:
    model, batch = small
    seen = []

    def weighting(g: Tensor) -> Tensor:
        seen.append(g)
        return torch.tensor(W, dtype=g.dtype)

    found, _ = gradients(model, Balance(PAIR, lambda: weighting, at="parameters"), bce, batch)
    each = of_each(model, batch, USED)
    flat = torch.stack([torch.cat([g[name].flatten() for name in USED]) for g in each]).double()
    shared = (flat != 0).sum(0) > 1
    g = (flat * shared) @ (flat * shared).T
    torch.testing.assert_close(seen[0], g / g.diagonal().mean(), rtol=1e-5, atol=1e-7)
    wanted = torch.where(shared, torch.tensor(W, dtype=flat.dtype) @ flat, flat.sum(0))
    torch.testing.assert_close(torch.cat([found[name].flatten() for name in USED]).double(), wanted, rtol=1e-5, atol=1e-7)
    assert found["idle.weight"] is None


def test_what_one_objective_alone_reads_is_not_weighted_at_parameters(small: tuple[Small, Batch]) -> None:
    model, batch = small

    def tasks_only(output: Output, y: Tensor) -> dict[str, Tensor]:
        return {"bce": bce(output, y)["bce"]}

    found, _ = gradients(model, Balance(PAIR, fixed(5.0, 7.0), at="parameters"), tasks_only, batch)
    plain, _ = gradients(model, Plain(PAIR), tasks_only, batch)
    for name in ("own.weight", "towers.0.weight", "towers.1.bias"):
        torch.testing.assert_close(found[name], plain[name])
    assert not torch.allclose(found["shared.weight"], plain["shared.weight"])


@pytest.mark.parametrize("at", ["representation", "parameters"])
@pytest.mark.parametrize("name", ["mmoe", "aitm", "apem", "esmm"])
def test_weights_of_one_are_the_plain_step(name: str, at: str, compose: Compose) -> None:
    for schema in (CHAIN, TREE):
        torch.manual_seed(0)
        model = make_model(compose, schema, f"model={name}").double()
        loss = build(compose(f"model={name}")["loss"], schema).double()
        batch = make_batch(schema)
        batch.share = 0.75
        plain, told = gradients(model, Plain(schema), loss, batch)
        found, terms = gradients(model, Balance(schema, ones, at), loss, batch)
        for parameter, wanted in plain.items():
            if wanted is None:
                assert found[parameter] is None, parameter
            else:
                torch.testing.assert_close(found[parameter], wanted, rtol=1e-6, atol=1e-12, msg=parameter)
        for term, value in told.items():
            assert terms[term] == value


@pytest.mark.parametrize("step", [Balance(CHAIN, ones), Balance(CHAIN, ones, "parameters"), GradNorm(CHAIN, lr=0.0), DWA(CHAIN)])
def test_weights_of_one_train_as_the_plain_step_does(step: Any, compose: Compose) -> None:
    """With a fused optimizer, which reads a gradient in the layout of its parameter, whatever its strides say."""
    loss, trained = build(compose("model=mmoe")["loss"], CHAIN), []
    for scheme in (Plain(CHAIN), step):
        torch.manual_seed(0)
        model = make_model(compose, CHAIN, "model=mmoe")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-3, fused=True)
        for seed in range(5):
            optimizer.zero_grad()
            scheme(model, loss, make_batch(CHAIN, seed=seed))
            optimizer.step()
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)


def test_a_parameter_of_the_loss_gets_the_plain_gradient(small: tuple[Small, Batch]) -> None:
    class Uncertain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s = nn.Parameter(torch.tensor([0.3, -0.2]))

        def forward(self, output: Output, y: Tensor) -> dict[str, Tensor]:
            return {"bce": (-self.s).exp() * bce(output, y)["bce"], "uncertainty": self.s.sum() / 2}

    model, batch = small
    for at in ("representation", "parameters"):
        loss = Uncertain()
        Plain(PAIR)(model, loss, batch)
        wanted, loss.s.grad = loss.s.grad, None
        terms = Balance(PAIR, fixed(3.0, 0.1), at)(model, loss, batch)
        torch.testing.assert_close(loss.s.grad, wanted)
        assert terms["extra/weight_uncertainty"] == 1.0, "it has no gradient there"


def test_gradients_that_agree_are_summed_by_pcgrad(small: tuple[Small, Batch]) -> None:
    model, batch = small

    def alike(output: Output, y: Tensor) -> dict[str, Tensor]:
        mean = output.logits.mean()
        return {"bce": torch.stack([mean, mean + 0.01 * output.logits.square().mean()])}

    found, terms = gradients(model, step_of("pcgrad"), alike, batch)
    plain, _ = gradients(model, Plain(PAIR), alike, batch)
    assert terms["extra/weight_click"] == terms["extra/weight_buy"] == 1.0
    torch.testing.assert_close(found["embedding.weight"], plain["embedding.weight"])


@pytest.mark.parametrize("name", ["mgda", "upgrad", "pcgrad", "nash_mtl", "imtl_g"])  # the others may
def test_of_two_tasks_a_balanced_step_goes_against_none_where_the_plain_one_does(name: str, small: tuple[Small, Batch]) -> None:
    model, batch = small

    def against(output: Output, y: Tensor) -> dict[str, Tensor]:
        a, b = output.logits.unbind(1)
        return {"bce": torch.stack([8 * (a - b).mean(), (b - a).mean() + b.square().mean()])}

    losses = [against(model(batch), batch.y)["bce"][t] for t in range(2)]
    parameters = [model.get_parameter(n) for n in USED]
    each = [torch.cat([g.flatten() for g in torch.autograd.grad(x, parameters, retain_graph=True)]) for x in losses]
    mask = (each[0] != 0) & (each[1] != 0)
    products = []
    for step in (Plain(PAIR), step_of(name, "at=parameters")):
        found, _ = gradients(model, step, against, batch)
        flat = torch.cat([found[n].flatten() for n in USED])
        products.append(min((flat * mask @ g).item() for g in each))
    assert products[0] < 0
    assert products[1] > -1e-3 * each[1].norm() ** 2


def test_frozen_tables(small: tuple[Small, Batch]) -> None:
    model, batch = small
    model.own.weight.requires_grad_(False)
    found, _ = gradients(model, Balance(PAIR, fixed(*W)), bce, batch)
    assert found["own.weight"] is None
    assert found["embedding.weight"] is not None
    model.embedding.weight.requires_grad_(False)
    with pytest.raises(SeqmtlError, match="reads none that is trained"):
        Balance(PAIR, fixed(*W))(model, bce, batch)
    Balance(PAIR, fixed(*W), at="parameters")(model, bce, batch)


@pytest.mark.parametrize("at", ["representation", "parameters"])
def test_products_are_not_taken_in_half_precision(small: tuple[Small, Batch], at: str) -> None:
    model, batch = small
    seen = []

    def weighting(g: Tensor) -> Tensor:
        seen.append(g)
        return torch.ones(len(g), dtype=g.dtype)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = gradients(model, Balance(PAIR, lambda: weighting, at), bce, batch)
    assert seen[0].dtype == torch.float64
    torch.testing.assert_close(seen[0], seen[0].T, rtol=0, atol=0)
    assert not torch.equal(seen[0], seen[0].bfloat16().double())
    assert all(g is None or (torch.isfinite(g).all() and g.dtype == torch.float32) for g in found.values())


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("half", [False, True])
def test_every_step_trains_mmoe(name: str, half: bool, compose: Compose) -> None:
    torch.manual_seed(0)
    model = make_model(compose, CHAIN, "model=mmoe")
    loss = build(compose("model=mmoe")["loss"], CHAIN)
    step = build(compose(f"step={name}")["step"], CHAIN) if not half else step_of(name, schema=CHAIN)
    batch = make_batch(CHAIN, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found, terms = gradients(model, step, loss, batch)
        assert all(g is not None and torch.isfinite(g).all() for g in found.values())
        assert {f"extra/weight_{t}" for t in CHAIN.task_names} <= terms.keys()
        assert all(value.ndim == 0 and not value.requires_grad for value in terms.values())
        values.append(terms["bce"].item())
        optimizer.step()
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", STEPS)
def test_one_task_alone_is_trained_plainly(name: str, compose: Compose) -> None:
    schema = CHAIN.keep(["click"])
    torch.manual_seed(0)
    model = make_model(compose, schema, "model=mmoe")
    loss, batch = build(compose("loss=bce")["loss"], schema), make_batch(schema)
    step = step_of(name, schema=schema)
    for _ in range(2):
        found, terms = gradients(model, step, loss, batch)
        plain, _ = gradients(model, Plain(schema), loss, batch)
        assert terms["extra/weight_click"] == 1.0
        for parameter, wanted in plain.items():
            torch.testing.assert_close(found[parameter], wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", STEPS)
def test_tasks_that_share_nothing_are_refused(name: str, compose: Compose) -> None:
    with pytest.raises(SeqmtlError, match=f"step={name} balances .* model=single_task share nothing"):
        check_pairs(compose("model=single_task") | {"step": node(name)})
    check_pairs(compose("model=mmoe") | {"step": node(name)})


def test_bad_options_and_missing_libraries_are_refused_in_words() -> None:
    def missing() -> Any:
        raise ImportError("CAGradWeighting requires ['cvxpy'] to be installed.")

    with pytest.raises(SeqmtlError, match=r"pip install 'seqmtl\[balancers\]'"):
        Balance(PAIR, missing)
    for name, option, words in (
        ("pcgrad", "at=towers", "step.at=towers is unknown; choose from representation, parameters"),
        ("cagrad", "weighting.c=-1", "c must be non-negative"),
        ("dwa", "temperature=0", "step.temperature must be above 0"),
        ("gradnorm", "lr=-1", "step.lr must be at least 0"),
    ):
        with pytest.raises(SeqmtlError, match=words):
            step_of(name, option)
