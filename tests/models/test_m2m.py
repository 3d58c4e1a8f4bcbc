"""M2M: its equations written out with loops, and limits in which it is a plainer model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import CHAIN, Compose, make_batch, make_model
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.models.m2m import M2M
from seqmtl.models.meta_unit import MetaUnit
from seqmtl.types import Features, Field, Schema, Task

B, T, F, D, W = 7, 3, 4, 3, 6
GIVEN: dict[str, Any] = {"profile": ["hour", "place"], "experts": 3, "hidden": 4, "view": 5}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def m2m(schema: Schema = CHAIN, width: int = W, **options: Any) -> M2M:
    made = M2M(schema, D, width, **(GIVEN | options)).double()
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def features(rows: int = B) -> Features:
    return Features(torch.randn(rows, F, D, dtype=torch.float64), lambda field, ids: ids)


def z(groups: int = 1, rows: int = B) -> Tensor:
    return torch.randn(rows, groups, W, dtype=torch.float64)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def dense(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def meta(unit: MetaUnit, h: Tensor, s: Tensor) -> Tensor:
    """One vector h through the unit of one scenario s."""
    n = len(h)
    for make_w, make_b in zip(unit.weights, unit.biases, strict=True):
        h = leaky(h @ dense(make_w, s).reshape(n, n) + dense(make_b, s))
    return h


def written_out(made: M2M, r: Tensor, fields: Tensor, read: list[int]) -> Tensor:
    """The paper's equations, row by row, task by task, expert by expert."""
    rows = []
    for i in range(len(r)):
        constant = [] if made.constant is None else [made.constant]
        s = leaky(dense(made.view, torch.cat([*constant, *(fields[i, f] for f in read)])))
        tasks = []
        for t in range(T):
            x = r[i, t if r.shape[1] > 1 else 0]
            e = [leaky(w @ x + b) for w, b in zip(made.experts.weight, made.experts.bias, strict=True)]
            view = leaky(dense(made.task, made.tasks[t]))
            scores = torch.stack([made.v @ meta(made.attention, torch.cat([expert, view]), s) for expert in e]).exp()
            h = sum(a / scores.sum() * expert for a, expert in zip(scores, e, strict=True))
            for tower in made.towers:
                h = leaky(meta(tower, h, s) + h)
            tasks.append(h)
        rows.append(torch.stack(tasks))
    return torch.stack(rows)


@pytest.mark.parametrize("groups", [1, T])
@pytest.mark.parametrize(("scenario", "profile"), [([], []), ([], ["hour", "place"]), (["place"], []), (["place"], ["hour"])])
@pytest.mark.parametrize("depth", [1, 2])
def test_equations_written_out(groups: int, scenario: list[str], profile: list[str], depth: int) -> None:
    made, rows, seen = m2m(scenario=scenario, profile=profile, depth=depth), z(groups), features()
    read = [CHAIN.field_names.index(name) for name in scenario + profile]
    torch.testing.assert_close(made(rows, seen), written_out(made, rows, seen.fields, read))


@pytest.mark.parametrize("experts", [1, 3])
def test_weights_of_the_experts_sum_to_one(experts: int) -> None:
    made = m2m(experts=experts)
    e = torch.randn(B, T, experts, 4, dtype=torch.float64)
    a = made.weights(e, made.scenario(features().fields))
    assert a.shape == (B, T, experts)
    torch.testing.assert_close(a.sum(-1), torch.ones(B, T, dtype=torch.float64))
    assert a.min() > 0
    assert experts == 1 or (a[:, 0] - a[:, 1]).abs().max() > 1e-3  # tasks differ


def test_one_expert_and_no_tower_is_the_expert() -> None:
    made, rows = m2m(experts=1, tower_depth=0), z()
    e = leaky(rows[:, 0] @ made.experts.weight[0].T + made.experts.bias[0])
    torch.testing.assert_close(made(rows, features()), e.unsqueeze(1).expand(-1, T, -1))


def test_towers_that_add_nothing_pass_on_what_they_get() -> None:
    made, rows, seen = m2m(), z(), features()
    for tower in made.towers:
        for parameter in tower.parameters():
            parameter.data.zero_()
    whole = made(rows, seen)
    made.towers = torch.nn.ModuleList()
    mixed = made(rows, seen)
    torch.testing.assert_close(whole, leaky(leaky(mixed)))
    assert mixed.min() < -1e-4  # so that the leak shows


def test_without_what_reads_the_scenario_all_rows_have_the_same_mlp() -> None:
    made, rows = m2m(), z()
    first = features()
    other = replace(first, fields=first.fields + 1)
    assert not torch.allclose(made(rows, first), made(rows, other), rtol=1e-2)
    for unit in (made.attention, *made.towers):
        for layer in (*unit.weights, *unit.biases):
            layer.weight.data.zero_()
    torch.testing.assert_close(made(rows, first), made(rows, other))
    # A tower is then the one matrix v_j and the one vector u_j.
    h = torch.randn(B, T, 4, dtype=torch.float64)
    tower = made.towers[0]
    fixed = leaky(h @ tower.weights[0].bias.reshape(4, 4) + tower.biases[0].bias)
    torch.testing.assert_close(tower(h, made.scenario(first.fields)), fixed)


def test_only_fields_of_the_scenario_are_read() -> None:
    made, rows, seen = m2m(scenario=["place"], profile=["hour"]), z(), features()
    before = made(rows, seen)
    for name, matters in (("user", False), ("item", False), ("hour", True), ("place", True)):
        fields = seen.fields.clone()
        fields[:, CHAIN.field_names.index(name)] += 1
        assert torch.equal(made(rows, replace(seen, fields=fields)), before) is not matters, name


def test_a_multi_valued_field_may_tell_the_scenario() -> None:
    bags = Schema((*CHAIN.fields, Field("tags", 9, bag=3)), CHAIN.tasks)
    made = m2m(bags, profile=["tags"])
    seen = replace(features(), fields=torch.randn(B, 5, D, dtype=torch.float64))
    torch.testing.assert_close(made(rows := z(), seen), written_out(made, rows, seen.fields, [4]))


def test_one_scenario_makes_its_weights_once() -> None:
    made = m2m(profile=[])
    assert made.scenario(features().fields).shape == (1, 5)
    assert m2m().scenario(features().fields).shape == (B, 5)


@pytest.mark.parametrize(("option", "named"), [("scenario", "model.trunk.scenario"), ("profile", "dataset.profile")])
def test_fields_that_are_not_there(option: str, named: str) -> None:
    with pytest.raises(SeqmtlError, match=f"{named} names city, town.*user, item, hour, place"):
        m2m(**{option: ["city", "hour", "town"]})


@pytest.mark.parametrize("scenario", [[], ["place"]])
@pytest.mark.parametrize(("n", "k", "k_s", "q", "towers"), [(4, 32, 32, 1, 2), (2, 16, 8, 2, 1), (1, 4, 5, 1, 0)])
def test_number_of_parameters(scenario: list[str], n: int, k: int, k_s: int, q: int, towers: int) -> None:
    made = M2M(CHAIN, D, W, scenario, ["hour", "item"], experts=n, hidden=k, view=k_s, depth=q, tower_depth=towers)
    view = 3 * D * k_s + k_s + (0 if scenario else D)
    attention = q * (k_s * 4 * k**2 + 4 * k**2 + k_s * 2 * k + 2 * k) + 2 * k
    tower = towers * q * (k_s * k**2 + k**2 + k_s * k + k)
    assert sum(p.numel() for p in made.parameters()) == n * (W * k + k) + T * D + (D * k + k) + view + attention + tower


def test_it_starts_as_large_as_an_ordinary_network() -> None:
    made = M2M(CHAIN, 32, 64)
    h = made(torch.randn(256, 1, 64), Features(0.01 * torch.randn(256, F, 32), lambda field, ids: ids))
    assert 0.2 < h.std() < 5


def test_the_dataset_says_the_profile(compose: Compose) -> None:
    config = compose("model=m2m", "dataset=tenrec_sim")
    profile = config["dataset"]["profile"]
    assert profile
    assert config["model"]["trunk"]["profile"] == profile
    tasks = (Task("click"), Task("buy", "click"))
    schema = Schema((Field("item", 30), *(Field(name, 5) for name in profile)), tasks, CHAIN.histories, "click")
    model = make_model(compose, schema, "model=m2m", "dataset=tenrec_sim")
    assert model.trunk.read.tolist() == [1 + i for i in range(len(profile))]
    assert torch.isfinite(model(make_batch(schema)).logits).all()
