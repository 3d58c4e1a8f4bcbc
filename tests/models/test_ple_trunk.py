"""PLE: limits in which it is another model, who may influence whom, and its formula written out with loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, Compose
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.errors import SeqmtlError
from seqmtl.models.mmoe import MMoE
from seqmtl.models.ple import PLE
from seqmtl.nn.mlp import MLP
from seqmtl.nn.own import own
from seqmtl.types import Features, Field, Schema, Task

NOTHING = Features(torch.zeros(1, 1, 1), lambda field, ids: ids)
ONE = Schema(CHAIN.fields, (Task("click"),))
T = 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def ple(schema: Schema = CHAIN, **options: Any) -> PLE:
    """Two levels, three private experts and two shared ones, of different widths; biases that are not 0."""
    given = {"levels": [[8, 7], [5]], "shared": 2, "private": 3, "tower_dims": [4]} | options
    made = PLE(schema, 3, 6, **given).double()
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def z(groups: int = 1, rows: int = 9) -> Tensor:
    return torch.randn(rows, groups, 6, dtype=torch.float64)


def dense(mlp: MLP, i: int, x: Tensor) -> Tensor:
    """Stack i of some parallel MLPs."""
    for layer in mlp.layers:
        x = (x @ layer[0].weight[i].T + layer[0].bias[i]).relu()
    return x


def gated(gate: nn.Module, i: int, x: Tensor, experts: list[Tensor]) -> Tensor:
    scores = (x @ gate.weight[i].T + gate.bias[i]).exp()
    return sum(scores[:, k : k + 1] / scores.sum(1, keepdim=True) * e for k, e in enumerate(experts))


def written_out(made: PLE, v: Tensor, overwrite: bool = False) -> Tensor:
    """The equations of the paper for one input v (B,W), expert by expert; `overwrite`: gates read what is already new."""
    x, s = [v] * T, v
    for number, level in enumerate(made.levels, 1):
        each = level.each
        a = [[dense(level.private, t * each + p, x[t]) for p in range(each)] for t in range(T)]
        b = [dense(level.shared, q, s) for q in range(level.shared.n)]
        new_x = [gated(level.gates, t, x[t], a[t] + b) for t in range(T)]
        if number < len(made.levels):
            s = gated(level.shared_gate, 0, sum(new_x) if overwrite else s, [e for some in a for e in some] + b)
        x = new_x
    return torch.stack([dense(made.towers, t, x[t]) for t in range(T)], 1)


@pytest.mark.parametrize("levels", [[[8, 7]], [[8, 7], [5]], [[6], [6], [6]]])
@pytest.mark.parametrize("private", [0, 1, 3])
def test_equations_written_out(levels: list[list[int]], private: int) -> None:
    made, rows = ple(levels=levels, private=private), z()
    torch.testing.assert_close(made(rows, NOTHING), written_out(made, rows[:, 0]))


def test_every_gate_reads_the_levels_input() -> None:
    made, rows = ple(levels=[[6], [6]]), z()
    wrong = written_out(made, rows[:, 0], overwrite=True)
    assert not torch.allclose(made(rows, NOTHING), wrong, rtol=1e-3)


@pytest.mark.parametrize("levels", [[[8, 7]], [[8, 7], [5]], [[6], [6], [6]]])
def test_a_representation_for_each_task_is_a_pass_for_each_task(levels: list[list[int]]) -> None:
    made, rows = ple(levels=levels), z(T)
    passes = [made(rows[:, t : t + 1], NOTHING)[:, t] for t in range(T)]
    torch.testing.assert_close(made(rows, NOTHING), torch.stack(passes, 1))
    assert not torch.allclose(passes[0], made(rows[:, 1:2], NOTHING)[:, 0])


def test_own_takes_the_diagonal() -> None:
    x = torch.arange(2 * 3 * 3 * 2).reshape(2, 3, 3, 2)
    assert torch.equal(own(x), torch.stack([x[:, t, t] for t in range(3)], 1))
    assert torch.equal(own(x[:, :1]), x[:, 0])
    assert torch.equal(own(x[:, :, :1]), x[:, :, 0])
    assert torch.equal(own(x[:, :1, :1]), x[:, 0, :1])


def test_without_private_experts_one_level_is_mmoe() -> None:
    made = ple(levels=[[8, 7]], private=0)
    mmoe = MMoE(CHAIN, 3, 6, experts=2, dims=[8, 7], tower_dims=[4]).double()
    for ours, theirs in ((made.levels[0].shared, mmoe.experts), (made.levels[0].gates, mmoe.gates), (made.towers, mmoe.towers)):
        theirs.load_state_dict(ours.state_dict())
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in mmoe.parameters())
    for rows in (z(), z(T)):
        torch.testing.assert_close(made(rows, NOTHING), mmoe(rows, NOTHING))


def gradients(made: PLE, t: int, rows: Tensor) -> dict[str, Tensor]:
    """Gradients of task t's output, by parameter."""
    made.zero_grad()
    made(rows, NOTHING)[:, t].square().sum().backward()
    return {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in made.named_parameters()}


@pytest.mark.parametrize("levels", [[[8, 7]], [[8, 7], [5]], [[6], [6], [6]]])
@pytest.mark.parametrize("groups", [1, T])
def test_without_shared_experts_the_tasks_are_independent(levels: list[list[int]], groups: int) -> None:
    made, rows = ple(levels=levels, shared=0), z(groups, rows=64)
    for t in range(T):
        for name, gradient in gradients(made, t, rows).items():
            of_tasks = gradient.unflatten(0, (T, -1)).abs().flatten(1).sum(1)
            assert of_tasks[t] > 0, name
            assert of_tasks.count_nonzero() == 1, name
    assert all(level.shared_gate is None for level in made.levels), "nothing would read what it mixes"


def test_one_shared_expert_and_one_task_is_an_mlp() -> None:
    made, mlp = ple(ONE, levels=[[8, 7]], shared=1, private=0), MLP(6, [8, 7, 4]).double()
    for ours, theirs in zip([*made.levels[0].shared.layers, *made.towers.layers], mlp.layers, strict=True):
        theirs.load_state_dict(ours.state_dict())
    rows = z()
    torch.testing.assert_close(made(rows, NOTHING), mlp(rows))


def test_the_last_level_has_no_shared_gate() -> None:
    assert ple(levels=[[8, 7]]).levels[0].shared_gate is None
    assert [level.shared_gate is None for level in ple(levels=[[6], [6], [6]]).levels] == [False, False, True]


def test_the_order_of_experts_within_a_group_does_not_count() -> None:
    made, rows = ple(), z()
    before = made(rows, NOTHING)
    first = made.levels[0]
    turn = torch.tensor([2, 0, 1])
    of_task_1 = torch.cat([torch.arange(3), 3 + turn, torch.arange(6, 9)])
    swap = torch.tensor([1, 0])
    for parameter in first.private.parameters():
        parameter.data = parameter.data[of_task_1]
    assert not torch.allclose(made(rows, NOTHING), before)
    for parameter in first.shared.parameters():
        parameter.data = parameter.data[swap]
    for parameter in first.gates.parameters():
        parameter.data[1, :3] = parameter.data[1, turn]
        parameter.data[:, 3:] = parameter.data[:, 3 + swap]
    for parameter in first.shared_gate.parameters():
        parameter.data = parameter.data[:, torch.cat([of_task_1, 9 + swap])]
    torch.testing.assert_close(made(rows, NOTHING), before)


def private_experts_reached(made: PLE, level: int, t: int) -> list[bool]:
    """Which tasks' private experts of a level task t's output depends on."""
    some = [g for name, g in gradients(made, t, z(rows=64)).items() if name.startswith(f"levels.{level}.private")]
    return [any(g.unflatten(0, (T, -1))[u].any().item() for g in some) for u in range(T)]


@pytest.mark.parametrize("t", range(T))
def test_private_experts_of_the_last_level_are_one_tasks_and_those_before_reach_all(t: int) -> None:
    alone = [u == t for u in range(T)]
    assert private_experts_reached(ple(levels=[[8, 7]]), 0, t) == alone
    assert private_experts_reached(ple(), 1, t) == alone
    assert private_experts_reached(ple(), 0, t) == [True] * T


def test_gates_sum_to_one() -> None:
    """Equal experts: whatever the gates say, each level is that expert."""
    made, rows = ple(levels=[[7]], tower_dims=[]), z()
    level = made.levels[0]
    for name, parameter in level.private.named_parameters():
        parameter.data[:] = parameter.data[:1]
        level.shared.get_parameter(name).data[:] = parameter.data[:1]
    expected = dense(level.shared, 0, rows[:, 0])
    for task in made(rows, NOTHING).unbind(1):
        torch.testing.assert_close(task, expected)


def test_options() -> None:
    made = ple(shared=None)
    assert made.levels[0].shared.n == T
    assert made.levels[0].private.n == 3 * T
    total = ple(private=6, specific_is_total=True)
    assert total.levels[1].private.n == 6
    without = ple(gate_bias=False)
    assert without.levels[0].gates.bias is None
    assert without.levels[0].shared_gate.bias is None
    rates = [layer[3].p for level in ple(dropout=[0.1, 0.2, 0.3]).levels for layer in level.private.layers]
    assert rates == [0.1, 0.2, 0.3]
    rates = [layer[3].p for level in ple(dropout=0.4).levels for layer in level.shared.layers]
    assert rates == [0.4, 0.4, 0.4]
    count = lambda made: sum(p.numel() for p in made.parameters())  # noqa: E731
    assert count(ple(norm="ln")) - count(ple()) == 2 * ((8 + 7 + 5) * (3 * T + 2) + T * 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shared": 0, "private": 0}, "leave no expert"),
        ({"private": 4, "specific_is_total": True}, r"private=4 experts cannot be dealt evenly to 3 tasks; give a multiple of 3"),
        ({"levels": [64, 32]}, r"list of levels, each with its widths, such as \[\[64,32,16\]\]"),
        ({"levels": []}, "list of levels"),
        ({"dropout": [0.1, 0.2]}, "2 rates for the 3 layers of the experts"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        ple(**options)


FUNNEL = Schema(tuple(Field(f"f{i}", 9) for i in range(18)), (Task("click"), Task("purchase", "click")))
TWO_LEVELS = ["model.trunk.levels=[[256],[128]]", "model.trunk.shared=4", "model.trunk.private=4", "model.trunk.dropout=0"]
TWO_LEVELS += ["model.trunk.tower_dims=[128,64,32]"]
APEMS = ["model.trunk.levels=[[256,128]]", "model.trunk.shared=2", "model.trunk.tower_dims=[64]", "model.trunk.dropout=0"]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ([], 34_308),
        (["model.dim=18"], 95_616),
        (TWO_LEVELS, 734_726),
        ([*TWO_LEVELS, "model.dim=18"], 1_460_126),
        ([*APEMS, "model.dim=18"], 482_976),
    ],
)
def test_dense_parameters(compose: Compose, overrides: list[str], wanted: int) -> None:
    with torch.device("meta"):
        model: nn.Module = build(compose("model=ple", "loss=bce", *overrides)["model"], schema=FUNNEL)
    assert sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name) == wanted
