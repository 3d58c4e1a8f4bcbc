"""DTRN whole: its ablations, its trunks, and the command lines of its tables."""

from __future__ import annotations

import pytest
import torch
from model_cases import TREE, Compose, make_batch, make_model
from torch import Tensor, nn

from seqmtl.build import check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.models.dmt import DMT
from seqmtl.models.mtl import MTLModel
from seqmtl.models.tim import TIM
from seqmtl.models.trm import TRM

TRUNKS = ("shared_bottom", "mmoe", "ple", "aitm")  # Table 7
SMALL = ("model.dim=8", "trainer.threads=1")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def dtrn(compose: Compose, *overrides: str) -> MTLModel:
    made = make_model(compose, TREE, *SMALL, *(overrides or ("model=dtrn",))).eval()
    assert isinstance(made, MTLModel)
    return made


def test_the_ablations_leave_out_one_module_each(compose: Compose) -> None:
    parts = {name: dtrn(compose, f"model={name}").bottom for name in ("dtrn", "dtrn_wo_trm", "dtrn_wo_tim")}
    assert [type(x) for x in parts.values()] == [TRM, TIM, TRM]
    assert type(parts["dtrn"].inner) is TIM
    assert type(parts["dtrn_wo_tim"].inner) is DMT


def test_dtrn_is_the_gates_around_the_interests(compose: Compose) -> None:
    whole, without = dtrn(compose), dtrn(compose, "model=dtrn_wo_trm")
    without.embedding.load_state_dict(whole.embedding.state_dict())
    without.own_embedding.load_state_dict(whole.own_embedding.state_dict())
    without.bottom.load_state_dict(whole.bottom.inner.state_dict())
    nn.init.zeros_(whole.bottom.out.weight)  # all gates are 1/2
    batch = make_batch(TREE)
    torch.testing.assert_close(whole.bottom(whole.embed(batch)), without.bottom(without.embed(batch)) / 2)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_each_trunk_reads_each_tasks_own_representation(trunk: str, compose: Compose) -> None:
    made, batch = dtrn(compose, "model=dtrn", f"model/trunk={trunk}"), make_batch(TREE)
    kept: list[Tensor] = []
    made.bottom.register_forward_hook(lambda module, args, z: kept.append(z) or z)
    logits = made(batch).logits
    (z,) = kept
    assert z.shape == (16, 4, made.bottom.width)
    for t in range(4):
        changed = z.clone()
        changed[:, t] += 1
        moved = (made.head(made.trunk(changed, made.embed(batch)), changed, made.embed(batch)).logits != logits).any(0)
        children = [u for u in range(4) if u == t or (trunk == "aitm" and descends(u, t))]
        assert moved.nonzero().flatten().tolist() == children


def descends(task: int, ancestor: int) -> bool:
    parent = TREE.parents[task]
    return parent is not None and (parent == ancestor or descends(parent, ancestor))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_tasks_of_one_type_and_one_gate_are_the_ordinary_trunk(trunk: str, compose: Compose) -> None:
    made, batch = dtrn(compose, "model=dtrn", f"model/trunk={trunk}"), make_batch(TREE)
    made.bottom.inner.hypernetworks.tasks.data[:] = made.bottom.inner.hypernetworks.tasks.data[0]
    for layer in (made.bottom.hidden.layers[0][0], made.bottom.out):
        layer.weight.data[:] = layer.weight.data[0]
    features = made.embed(batch)
    z = made.bottom(features)
    torch.testing.assert_close(z, z[:, :1].expand_as(z))
    one = z[:, :1]
    torch.testing.assert_close(made(batch).logits, made.head(made.trunk(one, features), one, features).logits)


@pytest.mark.parametrize("injection", ["ln", "qkv", "ffn1", "ffn2"])
def test_after_a_step_the_tasks_differ_and_all_of_it_learns(injection: str, compose: Compose) -> None:
    made = dtrn(compose, "model=dtrn", f"model.bottom.inner.injection={injection}").train()
    batch = make_batch(TREE, 64)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for last in (False, True):
        interests = made.bottom.inner(made.embed(batch))
        assert torch.equal(interests[:, 0], interests[:, 1]) is not last
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(made(batch).logits, batch.y).backward()
        optimizer.step()
    for name, parameter in made.bottom.named_parameters():
        stacks = parameter.grad if "hyper" in name or parameter.ndim == 3 else parameter.grad.unsqueeze(0)
        assert stacks.abs().flatten(1).sum(1).gt(0).all(), name


def test_the_experiment_chooses_the_trunk_and_model_trunk_wins(compose: Compose) -> None:
    def trunk(*overrides: str) -> str:
        name: str = compose(*overrides)["model"]["trunk"]["name"]
        return name

    for model in ("dtrn", "dtrn_wo_trm", "dtrn_wo_tim"):
        assert trunk(f"model={model}") == "mmoe"
        assert trunk(f"model={model}", "experiment=dtrn_tenrec") == "mmoe"
        assert trunk(f"model={model}", "experiment=dtrn_ecommerce") == "aitm"
        assert trunk(f"model={model}", "experiment=dtrn_ecommerce", "model/trunk=ple") == "ple"


def test_data_without_histories_are_refused_unless_the_inner_bottom_reads_none(compose: Compose) -> None:
    for model in ("dtrn", "dtrn_wo_trm", "dtrn_wo_tim"):
        with pytest.raises(SeqmtlError, match="reads histories"):
            check_pairs(compose(f"model={model}", "dataset=aliccp_sim"))
    with pytest.raises(SeqmtlError) as refused:
        check_pairs(compose("model=dtrn", "dataset=aliccp_sim"))
    assert "mmoe" in str(refused.value).partition("as they are the models")[2]
    assert "dtrn" not in str(refused.value).partition("as they are the models")[2]
    check_pairs(compose("model=dtrn", "dataset=aliccp_sim", "model/bottom@model.bottom.inner=flat"))
