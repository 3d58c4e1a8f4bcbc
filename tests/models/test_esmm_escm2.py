"""ESMM and ESCM²: the product of conditional steps, and the imputation beside it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import CHAIN, TREE, Compose, make_batch, make_model
from torch import Tensor, nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.losses.bce import BCE
from seqmtl.losses.escm2 import DR
from seqmtl.models.escm2 import ESCM2
from seqmtl.models.esmm import ESMM
from seqmtl.models.linear import Linear
from seqmtl.types import Features, Field, Output, Schema, Task

PAIR = Schema((Field("a", 7), Field("b", 5)), (Task("click"), Task("purchase", "click")))
LOOSE = Schema(PAIR.fields, (Task("click"), Task("like"), Task("share")))
NOTHING = Features(torch.zeros(1, 1, 1), lambda field, ids: ids)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def told(schema: Schema, z: Tensor, **options: Any) -> Output:
    """What ESMM says where the towers' log-odds are z (B,T)."""
    head = ESMM(schema, 1, width=1, z_width=1, **options).to(z.dtype)
    nn.init.ones_(head.linear.weight)
    output: Output = head(z.unsqueeze(-1), z[:, None], NOTHING)
    assert torch.equal(output.extras["conditional"], z)
    return output


def f64(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_golden_loss() -> None:
    output = told(PAIR, f64([0.0, 0.0]))
    loss = BCE(PAIR)(output, torch.tensor([[1.0, 0.0]])).sum().item()
    assert loss == pytest.approx(0.9808292530, abs=1e-10)
    assert loss == pytest.approx(math.log(2) + math.log(4 / 3), abs=1e-12)


def test_golden_chain_and_both_ends() -> None:
    logits = told(CHAIN, f64([2.0, -1.0, 0.5])).logits
    assert F.logsigmoid(-logits[0, 2]).item() == pytest.approx(-0.1595233273, abs=1e-10)
    logits = told(PAIR, torch.tensor([[40.0, 40.0], [-40.0, -40.0]])).logits
    assert logits.dtype == torch.float32
    assert F.logsigmoid(-logits[0, 1]).item() == pytest.approx(-39.306854, abs=1e-5)
    assert F.logsigmoid(logits[1, 1]).item() == pytest.approx(-80.0, abs=1e-5)


def along_paths(parents: tuple[int | None, ...], z: Tensor) -> tuple[Tensor, Tensor]:
    """log p_t and log(1 - p_t) by sums over the path from the root: the first step that fails is the k-th."""
    log_p, log_not = [], []
    for t in range(len(parents)):
        path: list[int] = []
        step: int | None = t
        while step is not None:
            path.insert(0, step)
            step = parents[step]
        reached = [F.logsigmoid(z[:, path[:k]]).sum(1) for k in range(len(path) + 1)]
        fails = [reached[k] + F.logsigmoid(-z[:, s]) for k, s in enumerate(path)]
        log_p.append(reached[-1])
        log_not.append(torch.stack(fails).logsumexp(0))
    return torch.stack(log_p, 1), torch.stack(log_not, 1)


@pytest.mark.parametrize("schema", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_log_odds_are_those_of_the_sums_over_paths(schema: Schema, scale: float) -> None:
    z = scale * torch.randn(200, len(schema.tasks), dtype=torch.float64)
    logits = told(schema, z).logits
    log_p, log_not = along_paths(schema.parents, z)
    torch.testing.assert_close(F.logsigmoid(logits), log_p, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(F.logsigmoid(-logits), log_not, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schema", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_step_is_never_likelier_than_its_parent(schema: Schema, scale: float) -> None:
    logits = told(schema, scale * torch.randn(500, len(schema.tasks))).logits
    for t, u in enumerate(schema.parents):
        if u is not None:
            assert (logits[:, t] <= logits[:, u] + 1e-5 * logits[:, u].abs()).all()
            assert (logits[:, t] < logits[:, u]).float().mean() > 0.4


def test_a_step_that_is_certain_given_its_parent_is_as_likely_as_it() -> None:
    z = torch.tensor([[0.7, math.inf, -1.0], [-3.0, 0.2, math.inf]])
    logits = told(CHAIN, z).logits
    torch.testing.assert_close(logits[0, 1], logits[0, 0])
    torch.testing.assert_close(logits[1, 2], logits[1, 1])
    assert logits[1, 1] < logits[1, 0] - 0.1


def test_gradient_where_both_steps_happened_is_that_of_a_plain_cross_entropy() -> None:
    z = f64([0.4, -1.3], [2.0, 0.6]).requires_grad_()
    loss = BCE(PAIR)(told(PAIR, z), torch.ones(2, 2)).sum()
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient[:, 1], (z[:, 1].sigmoid() - 1).detach() / 2)  # a mean over 2 rows


def test_a_conditional_step_learns_nothing_where_its_parent_is_impossible() -> None:
    """The product is what is supervised: at p_u ≈ 0 the child's logit has no gradient, as a direct loss on it would have."""
    z = f64([-50.0, 1.0]).requires_grad_()
    (gradient,) = torch.autograd.grad(BCE(PAIR)(told(PAIR, z), torch.zeros(1, 2))[1], z)
    assert gradient.abs().max() < 1e-20


def test_siblings_do_not_meet() -> None:
    z = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    logits = told(TREE, z).logits
    reads = [
        set(torch.autograd.grad(logits[:, t].sum(), z, retain_graph=True)[0][0].nonzero().flatten().tolist()) for t in range(4)
    ]
    assert reads == [{0}, {0, 1}, {0, 2}, {0, 2, 3}]


def test_a_single_task_is_single_task() -> None:
    alone = PAIR.keep(["click"])
    esmm, linear = ESMM(alone, 3, width=6, z_width=4), Linear(alone, 3, width=6, z_width=4)
    linear.load_state_dict(esmm.state_dict())
    h = torch.randn(5, 1, 6)
    assert torch.equal(esmm(h, h, NOTHING).logits, linear(h, h, NOTHING).logits)


@pytest.mark.parametrize("head", [ESMM, ESCM2])
def test_several_tasks_without_an_edge_are_refused_in_words(head: Any) -> None:
    with pytest.raises(SeqmtlError, match=r"none of click, like, share has a parent; give model\.head\.parents=\[null,0,0\]"):
        head(LOOSE, 3, width=6, z_width=4)
    head(LOOSE, 3, width=6, z_width=4, parents=[None, 0, 0])


def test_given_parents_win_over_those_of_the_data() -> None:
    z = torch.randn(6, 3, dtype=torch.float64)
    logits = told(CHAIN, z, parents=[None, 0, 0]).logits
    torch.testing.assert_close(logits[:, 2].sigmoid(), z[:, 0].sigmoid() * z[:, 2].sigmoid())
    assert torch.equal(told(CHAIN, z, parents=[None, 0, None]).logits[:, 2], z[:, 2])


def test_esmm_is_its_formula(compose: Compose) -> None:
    """Look-up, two towers, a product of probabilities: on the raw weights."""
    model, batch = make_model(compose, PAIR, "model=esmm"), make_batch(PAIR, 12)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model = model.double()
    w = model.state_dict()
    p = []
    for t in range(2):
        x = torch.cat([w["embedding.weight"][batch.fields[:, 0]], w["embedding.weight"][7 + batch.fields[:, 1]]], 1)
        for layer in range(3):
            name = f"trunk.towers.layers.{layer}.0"
            x = (x @ w[f"{name}.weight"][t].T + w[f"{name}.bias"][t]).relu()
        p.append((x @ w["head.linear.weight"][t].T + w["head.linear.bias"][t]).squeeze(1).sigmoid())
    p_click, p_purchase = p[0], p[0] * p[1]
    assert p_purchase.std() > 0.01
    torch.testing.assert_close(model(batch).logits.sigmoid(), torch.stack([p_click, p_purchase], 1))


def test_half_precision_does_not_reach_the_product(compose: Compose) -> None:
    model, batch = make_model(compose, CHAIN, "model=esmm"), make_batch(CHAIN, 256)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.head.linear.bias.data.fill_(-4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch).logits
    assert logits.dtype == torch.float32
    assert len(logits[:, 2].unique()) > 2 * len(logits[:, 2].bfloat16().unique())


def escm2(schema: Schema, **options: Any) -> ESCM2:
    head = ESCM2(schema, 3, **{"width": 6, "z_width": 4, "dims": [8, 5], "dropout": 0.0} | options)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    return head


def test_without_imputation_it_is_esmm() -> None:
    head, esmm = escm2(TREE), ESMM(TREE, 3, width=6, z_width=4)
    esmm.load_state_dict({k.removeprefix("product."): v for k, v in head.state_dict().items()})
    h, z = torch.randn(5, 4, 6), torch.randn(5, 1, 4)
    ours, theirs = head(h, z, NOTHING), esmm(h, z, NOTHING)
    assert torch.equal(ours.logits, theirs.logits)
    assert ours.extras.keys() == {"conditional"}


@pytest.mark.parametrize("g", [1, 4])
def test_the_imputation_reads_the_bottoms_output_for_each_edge(g: int) -> None:
    head = escm2(TREE, imputation="error")
    h, z = torch.randn(5, 4, 6), torch.randn(5, g, 4)
    imputation = head(h, z, NOTHING).extras["imputation"]
    assert not imputation[:, 0].any(), "a root has no edge"
    w = head.state_dict()
    for edge, child in enumerate([1, 2, 3]):
        x = z[:, child if g > 1 else 0]
        for layer in range(2):
            x = (x @ w[f"towers.layers.{layer}.0.weight"][edge].T + w[f"towers.layers.{layer}.0.bias"][edge]).relu()
        wanted = (x @ w["imputed.weight"][edge].T + w["imputed.bias"][edge]).squeeze(1)
        assert wanted.std() > 0.01
        torch.testing.assert_close(imputation[:, child], wanted)
    # Not through the towers of the tasks.
    torch.testing.assert_close(head(torch.randn_like(h), z, NOTHING).extras["imputation"], imputation)


def test_the_loss_decides_whether_the_tower_is_there(compose: Compose) -> None:
    batch = make_batch(CHAIN)
    assert "imputation" not in make_model(compose, CHAIN, "model=escm2")(batch).extras
    for loss in (["loss=escm2_dr"], ["loss=escm2_dr", "loss.terms.escm2.imputation=label"]):
        assert "imputation" in make_model(compose, CHAIN, "model=escm2", *loss)(batch).extras
    # Also in another trunk.
    assert "imputation" in make_model(compose, CHAIN, "model=mmoe", "model/head=escm2", "loss=escm2_dr")(batch).extras
    head = compose("model=escm2", "model.trunk.dims=[9]", "model.trunk.dropout=0.2")["model"]["head"]
    assert (head["dims"], head["dropout"]) == ([9], 0.2), "the imputation towers are as the others"
    given = compose("model=escm2", "model.head.parents=[null,0,0]")
    assert given["loss"]["terms"]["escm2"]["parents"] == [None, 0, 0], "the loss follows the head"


def test_a_single_task_has_nothing_to_impute() -> None:
    alone = PAIR.keep(["click"])
    h, z = torch.randn(5, 1, 6), torch.randn(5, 1, 4)
    output = escm2(alone, imputation="error")(h, z, NOTHING)
    y = (torch.arange(5) % 2).float().unsqueeze(1)
    assert torch.equal(DR(alone)(output, y), BCE(alone)(output, y))


def test_a_wrong_pair_names_one_that_works(compose: Compose) -> None:
    with pytest.raises(SeqmtlError) as e:
        check_pairs(compose("model=mmoe", "loss=escm2_dr"))
    assert str(e.value) == (
        "loss=escm2_dr needs conditional, imputation, which model=mmoe does not provide (it provides logits only);"
        " model=mmoe loss=bce works, and so does model=escm2 loss=escm2_dr"
    )
    with pytest.raises(
        SeqmtlError, match=r"needs imputation, which model=esmm .*it provides conditional.*model=escm2 loss=escm2_dr"
    ):
        check_pairs(compose("model=esmm", "loss=escm2_dr"))
    for works in (["model=escm2", "loss=escm2_dr"], ["model=esmm", "loss=escm2_ipw"], ["model=escm2", "loss=bce"]):
        check_pairs(compose(*works))


def test_a_head_that_was_told_to_have_no_tower_is_refused_in_words(compose: Compose) -> None:
    overrides = ("model=escm2", "loss=escm2_dr", "model.head.imputation=null")
    loss = build(compose(*overrides)["loss"], schema=CHAIN)
    with pytest.raises(SeqmtlError, match=r"model\.head\.imputation=error, or loss=escm2_ipw"):
        loss(make_model(compose, CHAIN, *overrides)(make_batch(CHAIN)), make_batch(CHAIN).y)


@pytest.mark.parametrize("bottom", ["flat", "apem"])
def test_it_learns_with_one_representation_and_with_one_for_each_task(bottom: str, compose: Compose) -> None:
    overrides = ["model=escm2", "loss=escm2_dr"] + ["model/bottom=apem", "model.bottom.layers=1"] * (bottom == "apem")
    model = make_model(compose, CHAIN, *overrides)
    loss = build(compose(*overrides)["loss"], schema=CHAIN)
    batch = make_batch(CHAIN, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(model(batch), batch.y)["escm2"].sum()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 2
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "head" in name)
