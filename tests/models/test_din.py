"""YouTubeNet and DIN: their formulas written out with loops, and the cases in which one is known or is the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import CHAIN, Compose, make_batch, make_model, part
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.dien import DIEN
from seqmtl.models.din import DIN
from seqmtl.models.youtubenet import YouTubeNet
from seqmtl.types import Features, Field, History, Schema, Task

D = 6
SCHEMA = Schema((Field("user", 9), Field("item", 30)), (Task("click"),), (History("seen", "item", 5),), "seen")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def features(rows: Sequence[Tensor], width: int | None = None, target: Tensor | None = None) -> Features:
    """Rows of past items (n,D), padded with noise to `width`."""
    width = width or max(1, *(len(row) for row in rows))
    noise = [9 * torch.randn(width - len(row), D, dtype=torch.float64) for row in rows]
    items = torch.stack([torch.cat([row, rest]) for row, rest in zip(rows, noise, strict=True)])
    mask = torch.arange(width) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    e = torch.randn(len(rows), D, dtype=torch.float64) if target is None else target
    fields = torch.stack([torch.ones_like(e), e], 1)
    return Features(fields, lambda field, ids: ids, target=e, past={"seen": (items, mask)})


def rows(*lengths: int) -> list[Tensor]:
    return [torch.randn(n, D, dtype=torch.float64) for n in lengths]


def perturbed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module.double()


def din(**options: Any) -> DIN:
    made = perturbed(DIN(SCHEMA, D, **({"dims": [8, 5]} | options))).eval()
    assert isinstance(made, DIN)
    return made


def interest(bottom: nn.Module, given: Features) -> Tensor:
    z: Tensor = bottom(given)
    assert z.shape == (len(given.fields), 1, bottom.width)
    torch.testing.assert_close(z[:, 0, : 2 * D], given.fields.flatten(1))
    return z[:, 0, 2 * D :]


@pytest.mark.parametrize("bottom", [YouTubeNet, DIN, DIEN])
@pytest.mark.parametrize("main", [None, "click"])
def test_one_history_is_read_and_several_need_a_main_one(bottom: Any, main: str | None) -> None:
    schema = replace(CHAIN, main_history=main)
    if main is None:
        with pytest.raises(SeqmtlError, match=r"dataset\.main_history=click"):
            bottom(schema, D)
        assert bottom(schema.read(["like"]), D).histories == ("like",)
    else:
        assert bottom(schema, D).histories == ("click",)


@pytest.mark.parametrize("name", ["youtubenet", "din", "dien"])
def test_other_histories_change_nothing(name: str, compose: Compose) -> None:
    model, batch = make_model(compose, CHAIN, f"model={name}").eval(), make_batch(CHAIN, 8)
    nn.init.normal_(model.embedding.weight)
    before = model(batch).logits
    batch.past["skip"] = (batch.past["skip"] + 1) % 30
    assert torch.equal(model(batch).logits, before)
    batch.past["click"] = (batch.past["click"] + 1) % 30
    assert not torch.allclose(model(batch).logits, before, rtol=1e-3)


# YouTubeNet


def test_the_interest_is_the_mean_of_the_items() -> None:
    past = rows(3, 0, 1, 5)
    expected = torch.stack([sum(x, torch.zeros(D)) / max(1, len(x)) for x in past])
    torch.testing.assert_close(interest(YouTubeNet(SCHEMA, D), features(past, width=7)), expected)
    assert torch.equal(expected[1], torch.zeros(D, dtype=torch.float64))


@pytest.mark.parametrize("bottom", [YouTubeNet(SCHEMA, D), din()], ids=["youtubenet", "din"])
def test_one_item_is_the_interest_and_duplicates_change_nothing(bottom: nn.Module) -> None:
    past, e = rows(1, 4), torch.randn(2, D, dtype=torch.float64)
    once = interest(bottom, features(past, target=e))
    torch.testing.assert_close(once[:1], past[0])
    twice = interest(bottom, features([x.repeat_interleave(3, 0) for x in past], target=e))
    torch.testing.assert_close(twice, once)


# DIN


def activated(name: str, module: nn.Module, s: Tensor) -> Tensor:
    if name == "sigmoid":
        return 1 / (1 + (-s).exp())
    if name == "relu":
        return s.clamp(min=0)
    if name == "prelu":
        return torch.where(s > 0, s, module.weight * s)
    p = 1 / (1 + (-(s - module.norm.running_mean) / (module.norm.running_var + module.norm.eps).sqrt()).exp())
    return p * s + (1 - p) * module.slope * s  # eq. 4 and 5


def score(made: DIN, activation: str, e: Tensor, x: Tensor) -> Tensor:
    s = torch.cat([e, x, e - x, e * x])
    for layer, module in zip([made.unit.first, *made.unit.layers], [*made.unit.activations, None], strict=True):
        s = layer.weight @ s + (0 if layer.bias is None else layer.bias)
        s = s if module is None else activated(activation, module, s)
    return s[0]


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("activation", ["sigmoid", "dice", "prelu", "relu"])
def test_din_written_out(softmax: bool, scale: bool, activation: str) -> None:
    made, past = din(softmax=softmax, scale=scale, activation=activation), rows(3, 0, 1, 4)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    given = features(past, width=6)
    expected = torch.zeros(4, D, dtype=torch.float64)
    for b, x in enumerate(past):
        a = [score(made, activation, given.target[b], x_i) / (math.sqrt(D) if scale else 1) for x_i in x]
        if softmax:
            a = [a_i.exp() / sum(other.exp() for other in a) for a_i in a]
        for a_i, x_i in zip(a, x, strict=True):
            expected[b] += a_i * x_i
    torch.testing.assert_close(interest(made, given), expected)


def test_without_a_last_layer_din_is_youtubenet() -> None:
    made = din()
    nn.init.zeros_(made.unit.layers[-1].weight)
    given = features(rows(3, 0, 1, 5), width=6)
    torch.testing.assert_close(made(given), YouTubeNet(SCHEMA, D)(given))


def test_without_a_softmax_every_repetition_counts() -> None:
    made, e = din(softmax=False), torch.randn(1, D, dtype=torch.float64)
    x, y = rows(1, 1)
    of_x, of_y, of_all = (interest(made, features([items], target=e)) for items in (x, y, torch.cat([x, y, x, x])))
    torch.testing.assert_close(of_all, 3 * of_x + of_y)
    assert not torch.allclose(of_x, x, rtol=1e-2)


def test_what_matters_depends_on_the_rows_own_item() -> None:
    made, past = din(), rows(4)
    one, other = (interest(made, features(past)) for _ in range(2))  # other targets
    assert not torch.allclose(one, other, rtol=1e-3)


def test_dice_normalises_over_the_items_that_there_are() -> None:
    made, past = din(activation="dice").train(), rows(3, 0, 2)
    e = torch.randn(3, D, dtype=torch.float64)
    narrow, wide = (interest(made, features(past, width, e)) for width in (3, 8))
    torch.testing.assert_close(narrow, wide)
    assert torch.isfinite(interest(made, features(rows(1)))).all()
    assert torch.equal(interest(made, features(rows(0, 0))), torch.zeros(2, D, dtype=torch.float64))


@pytest.mark.parametrize("softmax", [True, False])
def test_parameters_of_din(softmax: bool) -> None:
    d = 32
    made = part("bottom", "din", softmax=softmax)(SCHEMA, d)
    unit = 4 * d * 80 + 80 + 80 * 40 + 40 + 41
    assert sum(p.numel() for p in made.parameters()) == unit - softmax  # a softmax takes the score's bias out
    assert not list(part("bottom", "pool")(SCHEMA, d).parameters())


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(SeqmtlError, match="sigmoid"):
        din(activation="tanh")
