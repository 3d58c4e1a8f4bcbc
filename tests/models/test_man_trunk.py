"""MAN: its attention written out, who hears whom, and what is left of it without attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, TREE
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.man import MAN
from seqmtl.models.ple import PLE
from seqmtl.nn.mlp import MLP
from seqmtl.types import Features, Schema, Task

LOOSE = Schema(CHAIN.fields, (Task("click"), Task("like"), Task("share")))
EDGES = {"chain": {1: [0], 2: [1]}, "tree": {1: [0], 2: [0], 3: [2]}}  # child: parents
BOTH = {"chain": {0: [1], 1: [0, 2], 2: [1]}, "tree": {0: [1, 2], 1: [0], 2: [0, 3], 3: [2]}}
SCHEMAS = {"chain": CHAIN, "tree": TREE}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def man(schema: Schema = CHAIN, **options: Any) -> MAN:
    """Wide enough that no ReLU is dead for all rows, with biases that are not 0 and attention that is not almost zero."""
    given = {"dims": [16, 12], "shared": 2, "private": 2, "tower_dims": [16, 8], "hidden": [7]} | options
    made = MAN(schema, 3, 6, **given).double()
    for name, parameter in made.named_parameters():
        parameter.data = torch.randn_like(parameter) if ".w_" in name else parameter + 0.1 * torch.randn_like(parameter)
    return made


def features() -> Features:
    return Features(torch.zeros(1, 1, 1), lambda field, ids: ids)


def z(groups: int = 1, rows: int = 9) -> Tensor:
    return torch.randn(rows, groups, 6, dtype=torch.float64)


def pair(made: MAN, edge: int, x_u: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """One edge, row by row: both halves are scored against themselves."""
    layer = made.attention.g.layers[0][0]
    ait = made.attention.ait[edge % len(made.attention.ait)]
    c, weight = [], []
    for a, q in zip(x_u, x_t, strict=True):
        p = (layer.weight[edge] @ a + layer.bias[edge]).relu()
        v, query, key = ([f.weight @ e + (0 if f.bias is None else f.bias) for e in (p, q)] for f in (ait.w_1, ait.w_2, ait.w_3))
        s = [torch.exp((query[i] * key[i]).sum() / len(q) ** 0.5) for i in (0, 1)]
        weight.append(s[0] / (s[0] + s[1]))
        c.append((s[0] * v[0] + s[1] * v[1]) / (s[0] + s[1]))
    return torch.stack(c), torch.stack(weight)


@pytest.mark.parametrize("graph", ["chain", "tree"])
@pytest.mark.parametrize("options", [{}, {"ait_shared": False}, {"ait_bias": True}, {"direction": "both", "ait_shared": False}])
@pytest.mark.parametrize("place", ["after_tower", "before_tower"])
def test_attention_written_out(graph: str, options: dict[str, Any], place: str) -> None:
    made, rows, seen = man(SCHEMAS[graph], place=place, **options), z(), features()
    h = made(rows, seen)
    x = made.cgc(rows, features())
    x = x if place == "before_tower" else made.towers(x)
    neighbours = (BOTH if "direction" in options else EDGES)[graph]
    order = made.attention.edges
    c, transfer = [], []
    for t in range(x.shape[1]):
        pairs = [pair(made, order.index((u, t)), x[:, u], x[:, t]) for u in neighbours.get(t, [])]
        c.append(sum(p[0] for p in pairs) / len(pairs) if pairs else x[:, t])
        transfer.append(sum(p[1] for p in pairs) / len(pairs) if pairs else torch.zeros(len(x)).double())
    assert len(order) == sum(len(some) for some in neighbours.values())
    c = torch.stack(c, 1)
    torch.testing.assert_close(h, made.hidden(made.towers(c) if place == "before_tower" else c))
    torch.testing.assert_close(seen.extras["transfer"].double(), torch.stack(transfer, 1), rtol=1e-6, atol=1e-6)
    assert not seen.extras["transfer"].requires_grad


def towers_reached(made: MAN, tasks: int) -> list[set[int]]:
    """For each task, the towers that its output depends on."""
    h, found = made(z(rows=64), features()), []
    for t in range(tasks):
        made.zero_grad()
        h[:, t].square().sum().backward(retain_graph=True)
        weight = made.towers.layers[0][0].weight
        found.append({i for i, g in enumerate(weight.grad) if g.any()})
    return found


def test_a_task_hears_its_parent_only() -> None:
    assert towers_reached(man(CHAIN), 3) == [{0}, {0, 1}, {1, 2}]
    assert towers_reached(man(TREE), 4) == [{0}, {0, 1}, {0, 2}, {2, 3}]


def test_in_both_directions_a_task_hears_its_neighbours() -> None:
    assert towers_reached(man(CHAIN, direction="both"), 3) == [{0, 1}, {0, 1, 2}, {1, 2}]
    assert towers_reached(man(TREE, direction="both"), 4) == [{0, 1, 2}, {0, 1}, {0, 2, 3}, {2, 3}]


def test_parents_may_be_given() -> None:
    assert towers_reached(man(LOOSE, parents=[None, 0, 0]), 3) == [{0}, {0, 1}, {0, 2}]
    assert towers_reached(man(CHAIN, parents=[None, 0, 0]), 3)[2] == {0, 2}


@pytest.mark.parametrize("place", ["after_tower", "before_tower"])
def test_the_stage_without_attention_hands_all_it_has_to_the_one_with_it(place: str) -> None:
    plain, made, rows = man(attention=False), man(place=place), z()
    state, own = plain.state_dict(), made.state_dict()
    assert {name for name in own if name not in state} == {name for name in own if name.startswith("attention.")}
    assert all(own[name].shape == value.shape for name, value in state.items())
    made.load_state_dict(own | state)
    before, after = plain(rows, features()), made(rows, features())
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert not torch.allclose(after[:, 1:], before[:, 1:])


@pytest.mark.parametrize("groups", [1, 3])
def test_without_attention_it_is_cgc_towers_and_a_hidden_layer(groups: int) -> None:
    made = man(attention=False)
    assert not any(name.startswith("attention") for name, _ in made.named_modules() if name)
    cgc = PLE(CHAIN, 3, 6, levels=[[16, 12]], shared=2, private=2, tower_dims=[16, 8, 7]).double()
    cgc.levels.load_state_dict(made.cgc.levels.state_dict())
    for ours, theirs in zip([*made.towers.layers, *made.hidden.layers], cgc.towers.layers, strict=True):
        theirs.load_state_dict(ours.state_dict())
    rows, seen = z(groups), features()
    torch.testing.assert_close(made(rows, seen), cgc(rows, features()))
    assert "transfer" not in seen.extras


def test_without_attention_and_shared_experts_the_tasks_are_independent() -> None:
    made, rows = man(attention=False, shared=0), z(rows=64)
    h = made(rows, features())
    for t in range(3):
        made.zero_grad()
        h[:, t].square().sum().backward(retain_graph=True)
        for name, parameter in made.named_parameters():
            of_tasks = parameter.grad.unflatten(0, (3, -1)).abs().flatten(1).sum(1)
            assert of_tasks[t] > 0, name
            assert of_tasks.count_nonzero() == 1, name


def test_options() -> None:
    def count(**options: Any) -> int:
        return sum(p.numel() for p in man(**options).parameters())

    k, edges, tasks = 8, 2, 3
    plain = count()
    assert plain - count(attention=False) == edges * (k * k + k) + 3 * k * k
    assert count(ait_bias=True) - plain == 3 * k
    assert count(ait_shared=False) - plain == 3 * k * k
    assert count(direction="both") - plain == edges * (k * k + k)
    assert count(place="before_tower", attention=True) - count(attention=False) == edges * (12 * 12 + 12) + 3 * 12 * 12
    assert plain - count(hidden=[]) == tasks * (k * 7 + 7)
    assert plain - count(gate_bias=False) == tasks * (2 + 2)
    assert count(private=6, specific_is_total=True) == plain
    assert count(norm="ln") - plain == 2 * ((tasks * 2 + 2) * (16 + 12) + tasks * (16 + 8 + 7))
    dropouts = [m.p for m in man(dropout=0.25).modules() if isinstance(m, nn.Dropout)]
    assert len(dropouts) == 2 + 2 + 2 + 1 + 1  # private and shared experts, towers, hidden layer, g
    assert set(dropouts) == {0.25}
    assert isinstance(man().towers, MLP)


def test_attention_without_an_edge_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(SeqmtlError, match=r"MAN needs a task that follows .* give model\.trunk\.parents=\[null,0,0\]"):
        man(LOOSE)
    assert man(LOOSE, attention=False)(z(), features()).shape == (9, 3, 7)


@pytest.mark.parametrize(("option", "value"), [("direction", "backward"), ("place", "in_tower")])
def test_unknown_choices_are_refused(option: str, value: str) -> None:
    with pytest.raises(SeqmtlError, match=rf"model\.trunk\.{option}={value} is unknown; choose from \w+, \w+"):
        man(**{option: value})
