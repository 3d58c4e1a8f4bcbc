"""Gradient balancers: weights of Gramians by hand, and gradients against explicit ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import CHAIN, TREE, make_batch, make_model
from omegaconf import OmegaConf
from torch import Tensor, nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.steps.balance import Balance
from seqmtl.steps.dwa import DWA
from seqmtl.steps.gradnorm import GradNorm
from seqmtl.steps.nash_mtl import NashMTLWeighting
from seqmtl.steps.plain import Plain
from seqmtl.steps.terms import objectives
from seqmtl.types import Batch, Field, Output, Schema, Task

CONF = Path(__file__).parents[2] / "conf"
BALANCED = ("pcgrad", "cagrad", "mgda", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad")
STEPS = (*BALANCED, "dwa", "gradnorm")
PAIR = Schema((Field("a", 7), Field("b", 5)), (Task("click"), Task("buy", "click")))
Compose = Callable[..., dict[str, Any]]


def gram(*rows: tuple[float, ...]) -> Tensor:
    j = torch.tensor(rows, dtype=torch.float64)
    return j @ j.T


def weights(step: Any, g: Tensor) -> list[float]:
    return step.weights(g).tolist()


def node(name: str, *overrides: str) -> dict[str, Any]:
    """conf/step/<name>.yaml with some options replaced; composing all of a run's config takes half a second each time."""
    config = OmegaConf.load(CONF / "step" / f"{name}.yaml")
    return OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides))))  # type: ignore[return-value]


def step_of(name: str, *overrides: str, schema: Schema = PAIR) -> Any:
    return build(node(name, *overrides), schema)


def ones() -> Callable[[Tensor], Tensor]:
    return lambda g: torch.ones(len(g), dtype=g.dtype)


def fixed(*values: float) -> Callable[[], Callable[[Tensor], Tensor]]:
    return lambda: lambda g: torch.tensor(values[: len(g)], dtype=g.dtype)


# -- the weights


def test_pcgrad_takes_away_what_points_against_another_task() -> None:
    # g1 = (2,0), g2 = (-1,1): g1·g2 = -2. g1 - (-2/2) g2 = g1 + g2; g2 - (-2/4) g1 = g2 + g1/2.
    assert weights(step_of("pcgrad"), gram((2, 0), (-1, 1))) == pytest.approx([1.5, 2.0])
    assert weights(step_of("pcgrad"), gram((2, 0), (1, 1))) == [1.0, 1.0]
    assert weights(step_of("pcgrad"), gram((2, 0, 1), (1, 1, 0), (0, 0, 3))) == [1.0, 1.0, 1.0]


def test_mgda_is_the_shortest_mean() -> None:
    # w1 = g2·(g2 - g1) / |g1 - g2|² = (2 + 2) / 10, as long as it is between 0 and 1
    assert weights(step_of("mgda"), gram((2, 0), (-1, 1))) == pytest.approx([0.4, 0.6], abs=2e-3)
    assert weights(step_of("mgda"), gram((1, 0), (3, 0.1))) == pytest.approx([1.0, 0.0], abs=2e-3)


def test_imtl_g_has_equal_projections() -> None:
    j = torch.tensor([[2.0, 0.0, 0.3], [-1.0, 1.0, 0.0], [0.2, 0.1, 5.0]], dtype=torch.float64)
    w = step_of("imtl_g").weights(j @ j.T)
    projections = (j / j.norm(dim=1, keepdim=True)) @ (w @ j)
    torch.testing.assert_close(projections, projections[0].expand(3))
    assert w.sum() == pytest.approx(1.0)


def test_aligned_mtl_makes_the_gradients_orthogonal_and_as_long_as_the_shortest() -> None:
    # Orthogonal ones: each is cut to the length of the shortest, and the mean is taken.
    assert weights(step_of("aligned_mtl"), gram((4, 0), (0, 2))) == pytest.approx([0.25, 0.5])
    j = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    w = step_of("aligned_mtl").weights(j @ j.T)
    u, s, vt = torch.linalg.svd(j, full_matrices=False)
    torch.testing.assert_close(w @ j, torch.full((2,), 0.5, dtype=torch.float64) @ (u @ vt * s.min()))


def test_cagrad_stays_near_the_mean_and_serves_the_worst_task() -> None:
    j = torch.tensor([[3.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    mean = j.mean(0)
    assert weights(step_of("cagrad", "weighting.c=0"), j @ j.T) == pytest.approx([0.5, 0.5])
    d = step_of("cagrad").weights(j @ j.T) @ j
    assert (d - mean).norm() == pytest.approx(0.4 * mean.norm().item(), rel=1e-3)
    around = torch.linspace(0, 2 * torch.pi, 2000, dtype=torch.float64)
    others = mean + 0.4 * mean.norm() * torch.stack([around.cos(), around.sin()], 1)
    assert (j @ d).min() >= (others @ j.T).min(1).values.max() - 1e-3


def test_upgrad_goes_against_no_task() -> None:
    j = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -3.0, 1.0]], dtype=torch.float64)
    assert ((step_of("upgrad").weights(j @ j.T) @ j) @ j.T).min() > -2e-3
    assert weights(step_of("upgrad"), gram((2, 0), (0, 3))) == pytest.approx([0.5, 0.5], abs=1e-4)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_nash_mtl_solves_its_equation(n: int) -> None:
    j = torch.randn(n, 20, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    j *= torch.logspace(0, -3, n, dtype=torch.float64).unsqueeze(1)
    g = j @ j.T
    alpha = NashMTLWeighting(ridge=0.0)(g)
    assert (alpha > 0).all()
    torch.testing.assert_close(g / g.norm() @ alpha, 1 / alpha)


def test_nash_mtl_where_no_two_gradients_meet_and_where_they_cancel() -> None:
    d = torch.tensor([9.0, 1.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(NashMTLWeighting(ridge=0.0)(d.diag()), (d / d.norm()).rsqrt())
    j = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    alpha = NashMTLWeighting()(j @ j.T)
    assert torch.isfinite(alpha).all()
    assert (alpha @ j).norm() <= (2 * (j @ j.T).norm()).sqrt()


@pytest.mark.parametrize("name", BALANCED)
def test_weights_do_not_depend_on_the_scale_of_the_loss(name: str) -> None:
    """Gradients of a mean over thousands of rows are tiny: some of the weightings would take them for nothing."""
    g = gram((2, 0, 1), (-1, 1, 0))
    at_one = weights(step_of(name), g)
    assert weights(step_of(name), g * 1e-14) == pytest.approx(at_one, rel=1e-4)
    assert max(at_one) > 0.1


@pytest.mark.parametrize("name", BALANCED)
def test_no_gradient_poisons_the_step(name: str) -> None:
    step = step_of(name)
    pair = gram((2, 0), (-1, 1))
    padded = torch.zeros(3, 3, dtype=torch.float64)
    padded[:2, :2] = pair
    assert weights(step, padded) == pytest.approx([*weights(step, pair), 1.0], rel=1e-4), "a row of zeros is left out"
    assert weights(step, torch.zeros(2, 2, dtype=torch.float64)) == [1.0, 1.0]
    assert weights(step, torch.diag(torch.tensor([0.0, 3.0], dtype=torch.float64))) == [1.0, 1.0]
    for bad in (torch.nan, torch.inf):
        assert weights(step, pair.clone().fill_diagonal_(bad)) == [1.0, 1.0]
    for hard in (gram((1, 2), (-1, -2)), gram((1, 2), (1, 2)), gram((1, 0), (-1e-7, 1e-9)), gram((1e3, 1), (0, 1e-6))):
        assert all(abs(w) < 1e12 for w in weights(step, hard))
    g = torch.Generator().manual_seed(0)
    for n in (2, 3, 5):
        j = torch.randn(n, 50, generator=g, dtype=torch.float64) * torch.logspace(0, -4, n, dtype=torch.float64)[:, None]
        assert torch.isfinite(step.weights(j @ j.T)).all()


# -- where they act


class Small(nn.Module):
    """A table, a layer that both tasks read, a tower each, and a table that only the first task reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(PAIR.fields, 3)
        self.own = FieldEmbedding(PAIR.fields[:1], 2)
        self.shared = nn.Linear(6, 4)
        self.towers = nn.ModuleList([nn.Linear(6, 1), nn.Linear(4, 1)])
        self.idle = nn.Linear(2, 2)
        for table in (self.embedding, self.own):
            nn.init.normal_(table.weight)

    def forward(self, batch: Batch) -> Output:
        h = self.shared(self.embedding(batch.fields).flatten(1)).tanh()
        own = self.own(batch.fields[:, :1]).flatten(1)
        return Output(torch.cat([self.towers[0](torch.cat([h, own], 1)), self.towers[1](h)], 1))


def bce(output: Output, y: Tensor) -> dict[str, Tensor]:
    per_task = nn.functional.binary_cross_entropy_with_logits(output.logits.float(), y, reduction="none").mean(0)
    return {"bce": per_task, "spread": 0.1 * output.logits.float().var()}


@pytest.fixture
def small() -> tuple[Small, Batch]:
    torch.manual_seed(3)
    fields = torch.stack([torch.randint(0, 7, (16,)), torch.randint(0, 5, (16,))], 1)
    return Small(), Batch(fields, (torch.rand(16, 2) < 0.4).float())


def gradients(model: nn.Module, step: Any, loss: Any, batch: Batch) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    model.zero_grad()
    terms = step(model, loss, batch)
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}, terms


def of_each(model: Small, batch: Batch, names: list[str]) -> list[dict[str, Tensor]]:
    """By autograd, one after the other: the gradients of click, buy and spread."""
    found = []
    for i in range(3):
        loss = list(objectives(bce(model(batch), batch.y)).values())[i]
        parameters = [model.get_parameter(name) for name in names]
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
        found.append(dict(zip(names, grads, strict=True)))
    return found


USED = ["embedding.weight", "own.weight", "shared.weight", "shared.bias"] + [
    f"towers.{t}.{n}" for t in "01" for n in ("weight", "bias")
]
W = (0.5, 3.0, -2.0)


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


# -- the two that weigh losses


def told_losses(values: list[list[float]]) -> Any:
    """A loss that says one row of `values` after the other, and a model with one table."""
    rows = iter(values)

    def loss(output: Output, y: Tensor) -> dict[str, Tensor]:
        return {"bce": torch.tensor(next(rows)) + 0 * output.logits.mean(0)}

    return loss


def test_dwa_agrees_with_another_implementation(small: tuple[Small, Batch]) -> None:
    from torchjd.scalarization import DWA as Reference

    torch.manual_seed(1)
    values = (torch.rand(5, 3, 2) + 0.1).tolist()  # five epochs of three batches
    model, batch = small
    for temperature in (2.0, 0.5):
        step, reference = DWA(PAIR, temperature), Reference(temperature)
        for epoch, batches in enumerate(values):
            step.set_epoch(epoch)
            for row in batches:
                losses = torch.tensor(row, requires_grad=True)
                reference(losses).backward()
                terms = step(model, told_losses([row]), batch)
                weights = torch.stack([terms["extra/weight_click"], terms["extra/weight_buy"]]).float()
                torch.testing.assert_close(weights, losses.grad)
                assert terms["bce"].item() == pytest.approx(sum(row)), "the loss is told unweighted"
            reference.step()


def test_dwa_weighs_the_loss_of_each_task(small: tuple[Small, Batch]) -> None:
    model, batch = small
    step = DWA(PAIR)
    step.means.copy_(torch.tensor([[1.0, 1.0], [0.5, 1.0]]))
    step.epochs.fill_(2)
    w = step.weights()
    assert w.tolist() == pytest.approx([2 / (1 + torch.e**0.25), 2 / (1 + torch.e**-0.25)])
    found, _ = gradients(model, step, bce, batch)
    each = of_each(model, batch, USED)
    for name in USED:
        wanted = sum(x * g[name] for x, g in zip((*w.tolist(), 1.0), each, strict=True))
        torch.testing.assert_close(found[name], wanted, msg=name)


def test_a_loss_of_zero_keeps_dwa_finite() -> None:
    step = DWA(PAIR)
    step.means.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    step.epochs.fill_(2)
    assert step.weights().tolist() == [1.0, 1.0]


def test_gradnorm_by_hand() -> None:
    step = GradNorm(PAIR, alpha=1.0, lr=0.1)
    step.update(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 4.0]))
    # First step: both have the pace 1, the target is the mean length 2: click too long, buy too short.
    # Slopes +3 and -1 over the mean 2: w = 1 - 0.15, 1 + 0.05; scaled to the sum 2.
    assert step.w.tolist() == pytest.approx([0.85 * 2 / 1.9, 1.05 * 2 / 1.9])
    assert step.initial.tolist() == [2.0, 4.0]
    # L/L0 = 0.5 and 1.5, of mean 1: targets 0.5 and 1.5 times the mean length 2.
    step.w.fill_(1.0)
    step.update(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 6.0]))
    assert step.w.tolist() == pytest.approx([0.9, 1.1])
    # With alpha = 0 the lengths shall be equal, whatever the pace.
    even = GradNorm(PAIR, alpha=0.0)
    even.initial.copy_(torch.tensor([1.0, 1.0]))
    even.started.fill_(True)
    even.update(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 6.0]))
    assert even.w.tolist() == [1.0, 1.0]


def test_gradnorm_evens_out_the_lengths(small: tuple[Small, Batch]) -> None:
    model, batch = small
    step = GradNorm(PAIR, alpha=0.0, lr=0.05)

    def scaled(output: Output, y: Tensor) -> dict[str, Tensor]:
        return {"bce": bce(output, y)["bce"] * torch.tensor([20.0, 1.0])}

    for _ in range(150):
        step(model, scaled, batch)
    lengths = []
    for t in range(2):
        vectors = model.embedding(batch.fields).detach().requires_grad_()
        own = model.own(batch.fields[:, :1]).detach().requires_grad_()
        h = model.shared(vectors.flatten(1)).tanh()
        logits = torch.cat([model.towers[0](torch.cat([h, own.flatten(1)], 1)), model.towers[1](h)], 1)
        grads = torch.autograd.grad(step.w[t] * scaled(Output(logits), batch.y)["bce"][t], [vectors, own], materialize_grads=True)
        lengths.append(torch.cat([g.flatten() for g in grads]).norm().item())
    assert lengths[0] == pytest.approx(lengths[1], rel=0.3)
    assert step.w.sum() == pytest.approx(2.0)
    assert step.w[0] < 0.3


def test_gradnorm_weighs_every_parameter(small: tuple[Small, Batch]) -> None:
    model, batch = small
    step = GradNorm(PAIR)
    step.w.copy_(torch.tensor([0.5, 1.5]))
    found, terms = gradients(model, step, bce, batch)
    assert terms["extra/weight_click"] == 0.5, "those that were used, not the new ones"
    each = of_each(model, batch, USED)
    for name in USED:
        wanted = sum(x * g[name] for x, g in zip((0.5, 1.5, 1.0), each, strict=True))
        torch.testing.assert_close(found[name], wanted, msg=name)
    assert step.w.tolist() != [0.5, 1.5]


@pytest.mark.parametrize("lengths", [[0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0]])
def test_gradnorm_keeps_its_weights_where_no_length_can_be_told(lengths: list[float]) -> None:
    step = GradNorm(PAIR)
    step.update(torch.tensor(lengths), torch.tensor([1.0, 1.0]))
    assert step.w.tolist() == [1.0, 1.0]


def test_weights_of_losses_need_a_loss_for_each_task(small: tuple[Small, Batch]) -> None:
    model, batch = small
    for step in (DWA(PAIR), GradNorm(PAIR)):
        with pytest.raises(SeqmtlError, match="no term of the loss has a value for each"):
            step(model, lambda output, y: {"pairs": output.logits.mean()}, batch)


@pytest.mark.parametrize("kind", [DWA, GradNorm])
def test_the_state_goes_through_a_checkpoint(kind: Any, small: tuple[Small, Batch]) -> None:
    model, batch = small

    def train(step: Any, epochs: range, first: int = 0) -> list[float]:
        seen = []
        for epoch in epochs:
            for i in range(first if epoch == epochs[0] else 0, 3):
                if i == 0 and hasattr(step, "set_epoch"):
                    step.set_epoch(epoch)
                losses = {"bce": torch.tensor([1.0 / (1 + epoch + i), 0.7 + 0.1 * i])}
                terms = step(model, lambda o, y, v=losses: {"bce": v["bce"] * (1 + 0.1 * o.logits.square().mean(0))}, batch)
                seen.append(terms["extra/weight_click"].item())
                if (epoch, i) == (2, 1):
                    saved.update({k: v.clone() for k, v in step.state_dict().items()})
        return seen

    saved: dict[str, Tensor] = {}
    undisturbed = train(kind(PAIR), range(5))
    resumed = kind(PAIR)
    resumed.load_state_dict(dict(saved))
    assert train(resumed, range(2, 5), first=2) == undisturbed[8:]
    assert len(set(undisturbed)) > 2
