"""Meta-learning: what a task is, short batches, ranks, precision, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch
from maml_cases import BAGS, Reader, Scaled, bce, gradients, queries, same, take
from model_cases import CHAIN, make_batch, make_model
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.errors import SeqmtlError
from seqmtl.steps.maml import MAML
from seqmtl.steps.plain import Plain
from seqmtl.types import Batch, Output

Compose = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("scope", ["all", "dense", "head"])
def test_a_frozen_parameter_is_neither_adapted_nor_given_a_gradient(scope: str) -> None:
    model, loss, batch = Reader(), bce(CHAIN), make_batch(CHAIN, 12)
    model.table.weight.requires_grad_(False)
    step = MAML(CHAIN, alpha=0.3, inner_scope=scope)
    step(model, loss, batch)
    assert model.table.weight.grad is None
    assert model.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("rows", "sizes"), [(8, [(2, 2), (2, 2)]), (7, [(2, 1), (2, 2)]), (3, [(1, 0), (1, 1)]), (1, [(1, 0)])])
def test_short_batches(rows: int, sizes: list[tuple[int, int]]) -> None:
    """Every row is used once; a task of one row does not adapt."""
    model, loss, batch, step = Reader(), bce(CHAIN), make_batch(CHAIN, rows), MAML(CHAIN)
    episodes, tasks = step._episodes(batch)
    assert [(len(e.query), 0 if e.support is None else len(e.support)) for e in episodes] == sizes
    assert tasks == len(sizes)
    assert sum(e.weight for e in episodes) == pytest.approx(1)
    said = step(model, loss, batch)
    assert all(torch.isfinite(v) for v in said.values())
    assert said.keys() == {"bce", "extra/support_loss"}, "the same names for every batch: ranks add them up"


def test_a_share_weighs_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of four ranks, with one task of four."""
    model, loss, batch = Reader(), bce(CHAIN), make_batch(CHAIN, 8)
    whole = gradients(MAML(CHAIN, tasks=1), model, loss, batch)
    batch.share = 0.0
    assert all(not g.any() for g in gradients(MAML(CHAIN), model, loss, batch)[0].values())
    batch.share = 0.25
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    for reduction, times in (("mean", 0.25), ("sum", 1.0)):
        found = gradients(MAML(CHAIN, tasks=4, reduction=reduction), model, loss, batch)
        torch.testing.assert_close(found[0], {k: v * times for k, v in whole[0].items()})
        torch.testing.assert_close(found[1], whole[1])


@pytest.mark.parametrize(("tasks", "world"), [(2, 2), (4, 2), (6, 2), (6, 3)])
def test_ranks_have_the_tasks_of_one_process(tasks: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = MAML(CHAIN, tasks=tasks)
    alone = {n: step._parts(n, 1.0) for n in range(1, 40)}
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    for n, (parts, count) in alone.items():
        together = []
        for rank in range(world):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            lo, hi = n * rank // world, n * (rank + 1) // world  # as Stream cuts
            if lo < hi:
                mine, counted = step._parts(hi - lo, (hi - lo) / n)
                assert counted == count
                together += [(lo + a, lo + b) for a, b in mine]
            else:
                assert step._parts(1, 0.0)[0] == [(0, 1)]
        assert together == parts


def test_the_rows_of_one_value_are_a_task() -> None:
    batch, step = make_batch(CHAIN, 40), MAML(CHAIN, tasks=3, task_by="feature:place")
    batch.fields[0, 3], batch.fields[1:, 3] = 4, batch.fields[1:, 3].clamp(max=3)  # 4 stands once
    seen: set[int] = set()
    for _ in range(40):
        episodes, tasks = step._episodes(batch)
        values = [{int(v) for v in torch.cat([e.support.fields, e.query.fields])[:, 3]} for e in episodes]
        assert tasks == len(episodes) == 3
        assert all(len(v) == 1 for v in values)
        assert len(set.union(*values)) == 3
        for episode, (value,) in zip(episodes, values, strict=True):
            assert len(episode.support) + len(episode.query) == (batch.fields[:, 3] == value).sum(), "all rows of the value"
            assert episode.weight == pytest.approx(1 / 3)
        seen |= set.union(*values)
    assert seen == {0, 1, 2, 3}
    few = MAML(CHAIN, tasks=30, task_by="feature:place")._episodes(batch)[0]
    assert len(few) == 4
    (alone,) = MAML(CHAIN, task_by="feature:user")._episodes(take(batch, slice(0, 1)))[0]
    assert alone.support is None
    assert gradients(step, Reader(), bce(CHAIN), batch)[0]["table.weight"].any()
    assert step.batches == 3


def test_each_label_is_a_task(compose: Compose) -> None:
    model, batch = make_model(compose, CHAIN, "model=mmoe"), make_batch(CHAIN, 24)
    loss = build(compose("loss=calibrated")["loss"], CHAIN)
    step = MAML(CHAIN, alpha=0.0, task_by="label", reduction="sum")
    assert step.batches == 1
    same(gradients(step, model, loss, batch), gradients(Plain(CHAIN), model, loss, queries(batch)), rtol=1e-4, atol=1e-6)
    # With an inner step: each task moves by its own loss, and is judged by it.
    double, plain = Reader().double(), bce(CHAIN).double()
    support, query = take(batch, slice(1, None, 2)), queries(batch)
    wanted = {name: torch.zeros_like(p) for name, p in double.named_parameters()}
    for t in range(3):
        parameters = dict(double.named_parameters())
        inner = torch.autograd.grad(
            plain(double(support), support.y)["bce"][t], parameters.values(), create_graph=True, allow_unused=True
        )
        moved = {n: p - 0.3 * g for (n, p), g in zip(parameters.items(), inner, strict=True)}
        outer = plain(torch.func.functional_call(double, moved, (query,)), query.y)["bce"][t]
        for name, g in zip(parameters, torch.autograd.grad(outer, parameters.values()), strict=True):
            wanted[name] += g / 3
    found = gradients(MAML(CHAIN, alpha=0.3, task_by="label"), double, plain, batch)[0]
    torch.testing.assert_close(found, wanted)


def test_a_term_of_no_task_is_shared_out_to_the_labels() -> None:
    model, loss, batch = Reader().double(), Scaled(), make_batch(CHAIN, 12)
    step = MAML(CHAIN, alpha=0.0, task_by="label", reduction="sum")
    same(gradients(step, model, loss, batch), gradients(Plain(CHAIN), model, loss, queries(batch)))
    with pytest.raises(SeqmtlError, match=r"no term of the loss has a value for each \(quadratic\)"):
        MAML(CHAIN, task_by="label")(model, lambda output, y: {"quadratic": output.logits.square().mean()}, batch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task_by": "clients"}, "task_by=clients of step=maml is unknown; choose from random, label and feature:NAME"),
        ({"task_by": "feature"}, "task_by=feature of step=maml is unknown"),
        ({"task_by": "feature:colour"}, "no single-valued field has this name; they are user, item, hour, place$"),
        ({"task_by": "feature:words"}, "no single-valued field has this name"),
        ({"inner_scope": "tail"}, "inner_scope=tail of step=maml is unknown; choose from all, dense, head"),
        ({"reduction": "max"}, "reduction=max of step=maml is unknown; choose from mean, sum"),
        ({"tasks": 0}, "tasks=0 of step=maml must be an integer of at least 1"),
        ({"tasks": 1.5}, "tasks=1.5 of step=maml must be an integer"),
        ({"alpha": -0.1}, "alpha=-0.1 of step=maml must not be below 0"),
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        MAML(BAGS, **options)


def test_ranks_that_cannot_hold_whole_tasks_are_refused() -> None:
    for step in (MAML(CHAIN, task_by="label"), MAML(CHAIN, task_by="feature:user")):
        step.refuse_ranks(1)
        with pytest.raises(SeqmtlError, match=r"2 ranks hold a piece each; use trainer\.devices=1 or task_by=random"):
            step.refuse_ranks(2)
    MAML(CHAIN, tasks=3).refuse_ranks(1)
    MAML(CHAIN, tasks=4).refuse_ranks(2)
    with pytest.raises(SeqmtlError, match="shares its 3 tasks out to 2 ranks; give a multiple, as tasks=2"):
        MAML(CHAIN, tasks=3).refuse_ranks(2)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Undifferentiable(Reader):
    def forward(self, batch: Batch) -> Output:
        return Output(Once.apply(super().forward(batch).logits))


def test_a_part_without_second_derivatives_is_told_in_words() -> None:
    model, loss, batch = Undifferentiable(), bce(CHAIN), make_batch(CHAIN, 8)
    with pytest.raises(SeqmtlError, match=r"needs second derivatives, which a part has not .*give first_order=true"):
        MAML(CHAIN)(model, loss, batch)
    MAML(CHAIN, first_order=True)(model, loss, batch)


@pytest.mark.parametrize(
    ("name", "noise", "alpha", "draws"),
    [("mmoe", 0.1, 2.0, 1), ("apem", 0.02, 1.0, 5), ("single_task", 0.1, 2.0, 1), ("aitm", 0.1, 2.0, 1)],
)
@pytest.mark.parametrize("first_order", [False, True])
def test_half_precision(name: str, noise: float, alpha: float, draws: int, first_order: bool, compose: Compose) -> None:
    """Autocast keeps casts of weights: they must not be those of another θ, nor without a gradient.

    For some weights of APEM the gradient is mostly rounding: the median of five draws is held.
    """
    errors, of_step = [], []
    for seed in range(draws):
        model, loss, batch = make_model(compose, CHAIN, f"model={name}"), bce(CHAIN), make_batch(CHAIN, 64)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += noise * torch.randn_like(parameter)
        step = MAML(CHAIN, alpha=alpha, first_order=first_order)
        found = []
        for kept in (True, False):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=kept):
                said, flat = told_and_flat(step, model, loss, batch)
            found.append(flat)
        exact_said, exact = told_and_flat(step, model, loss, batch)
        _, unadapted = told_and_flat(MAML(CHAIN, alpha=0.0), model, loss, batch)
        assert not torch.equal(said["bce"], exact_said["bce"]), "bfloat16 it was"
        errors.append(float((found[0] - exact).norm() / exact.norm()))
        of_step.append(float((found[0] - exact).norm() / (unadapted - exact).norm()))
        same_cast = (found[0] - found[1]).norm() < 0.01 * exact.norm()
        assert same_cast, "a weight that is used twice adds up in half precision if cast once"
    assert median(errors) < 0.15
    assert median(of_step) < 0.4, "what θ' changes is told from what half precision does"


@pytest.mark.parametrize("name", ["mmoe", "apem", "apem_wo_asrg", "aitm"])
def test_the_order_changes_the_gradient_and_not_where_a_task_adapts_to(name: str, compose: Compose) -> None:
    model, loss, batch = make_model(compose, CHAIN, f"model={name}").double(), bce(CHAIN), make_batch(CHAIN, 32)
    of_order = [told_and_flat(MAML(CHAIN, alpha=2.0, first_order=first), model, loss, batch) for first in (True, False)]
    (said, flat), (said_exact, exact) = of_order
    torch.testing.assert_close(said["bce"], said_exact["bce"], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(flat, exact)


def told_and_flat(step: Any, model: nn.Module, loss: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    found, said = gradients(step, model, loss, batch)
    return said, torch.cat([g.flatten() for g in found.values()])


def test_dropout_draws_for_each_pass_and_batch_norm_works(compose: Compose) -> None:
    overrides = ("model=mmoe", "model.trunk.norm=bn", "model.trunk.tower_dims=[8]")
    model, loss, batch = make_model(compose, CHAIN, *overrides, dropout=True), bce(CHAIN), make_batch(CHAIN, 32)
    before = {k: v.clone() for k, v in model.named_parameters()}
    moments = {k: v.clone() for k, v in model.named_buffers()}
    results = []
    for first_seed in (1, 1, 2):
        torch.manual_seed(first_seed)
        results.append(gradients(MAML(CHAIN, alpha=0.1), model, loss, batch)[0])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert not torch.equal(results[0]["embedding.weight"], results[2]["embedding.weight"])
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    assert any(not torch.equal(v, moments[k]) for k, v in model.named_buffers()), "the moments of BatchNorm move"
