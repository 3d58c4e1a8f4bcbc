"""TRM: what its gates do, around bottoms of one representation and of one for each task."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from model_cases import CHAIN, TREE
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.apem import APEM
from seqmtl.models.flat import Flat
from seqmtl.models.tim import TIM
from seqmtl.models.trm import TRM
from seqmtl.types import Features, Field, History, Schema, Task

D, T = 4, len(CHAIN.tasks)
W = len(CHAIN.fields) * D
INNER = {"flat": Flat, "apem": partial(APEM, layers=1, inducing=3)}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def trm(inner: str = "flat", **options: Any) -> TRM:
    return TRM(CHAIN, D, INNER[inner], **options)


def features() -> Features:
    return Features(torch.randn(6, len(CHAIN.fields), D), lambda field, ids: ids)


def gates_say(made: TRM, logit: float) -> None:
    assert made.out.bias is not None
    nn.init.zeros_(made.out.weight)
    nn.init.constant_(made.out.bias, logit)


@pytest.mark.parametrize("inner", INNER)
def test_each_task_has_a_gate_for_every_number(inner: str) -> None:
    made, given = trm(inner), features()
    raw, r = made.inner(given), made(given)
    assert r.shape == (6, T, made.width) == (6, T, made.inner.width)

    def linear(layer: Any, x: Tensor, t: int) -> Tensor:
        return layer.weight[t] @ x + layer.bias[t]

    for i in range(6):
        for t in range(T):
            x = raw[i, t if raw.shape[1] == T else 0]
            refine = linear(made.out, linear(made.hidden.layers[0][0], x, t).relu(), t).sigmoid()
            assert ((refine > 0) & (refine < 1)).all()
            torch.testing.assert_close(r[i, t], x * refine)
    assert (r[:, 0] - r[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    ("gate", "logit", "times"), [("sigmoid", 0, 0.5), ("2sigmoid", 0, 1), ("sigmoid", 50, 1), ("sigmoid", -50, 0)]
)
def test_gates_that_are_constant(inner: str, gate: str, logit: float, times: float) -> None:
    made, given = trm(inner, gate=gate), features()
    gates_say(made, logit)
    torch.testing.assert_close(made(given), times * made.inner(given).expand(-1, T, -1))


def test_a_task_moves_its_own_gates_only() -> None:
    made = trm()
    made(features())[:, 1].square().sum().backward()
    for layer in (made.hidden.layers[0][0], made.out):
        assert [bool(g.any()) for g in layer.weight.grad] == [t == 1 for t in range(T)]


def test_what_it_passes_on_is_that_of_the_inner_bottom() -> None:
    class Provider(Flat):
        provides = frozenset({"auxiliary"})

    made = TRM(CHAIN, D, Provider)
    assert (made.histories, made.provides) == ((), {"auxiliary"})
    assert TRM(TREE, D, partial(TIM, heads=1)).histories == TREE.history_names


def test_number_of_parameters() -> None:
    fields = tuple(Field(f"f{i}", 9) for i in range(5))
    tasks = tuple(Task(name) for name in ("click", "follow", "like", "share"))
    histories = tuple(History(f"h{b}", "f1", 10) for b in range(5))
    made = TRM(Schema(fields, tasks, histories), 32, TIM)
    gates = sum(p.numel() for module in (made.hidden, made.out) for p in module.parameters())
    assert (made.width, made.hidden.width, gates) == (320, 80, 206_400)
    assert trm(hidden=7).hidden.width == 7


def test_an_unknown_gate_is_refused() -> None:
    with pytest.raises(SeqmtlError, match="2sigmoid"):
        trm(gate="softmax")
