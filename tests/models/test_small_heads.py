"""SmallHeads: what the small heads read, whom they train, and that predictions do not know of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, Compose, make_batch, make_model, part
from torch import Tensor, nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.models.small_heads import SmallHeads
from seqmtl.types import Features, Output

T, H, W = 3, 5, 6
SHOWN = {"mmoe": 128, "omoe": 128, "ple": 128, "shared_bottom": 128}  # what trunks show of their experts, and how wide


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def nothing() -> Features:
    return Features(torch.zeros(1, 1, 1), lambda field, ids: ids)


def head(inner: str = "linear", **options: Any) -> SmallHeads:
    made = SmallHeads(CHAIN, 4, H, W, inner=part("head", inner), **options)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("groups", [1, T])
@pytest.mark.parametrize("hidden", [None, 4])
def test_equation_written_out(groups: int, hidden: int | None) -> None:
    made, z = head(hidden=hidden), torch.randn(7, groups, W)
    found = made(torch.randn(7, T, H), z, nothing()).extras["auxiliary"]
    for t in range(T):
        r = z[:, t if groups > 1 else 0]
        for layer in made.layers.layers:
            r = (r @ layer[0].weight[t].T + layer[0].bias[t]).relu()
        torch.testing.assert_close(found[:, t], r @ made.small.weight[t, 0] + made.small.bias[t, 0])


def test_logits_and_extras_are_the_inner_heads() -> None:
    made, h, z = head("esmm"), torch.randn(7, T, H), torch.randn(7, 1, W)
    ours, inner = made(h, z, nothing()), made.inner(h, z, nothing())
    assert torch.equal(ours.logits, inner.logits)
    assert torch.equal(ours.extras["conditional"], inner.extras["conditional"])
    assert ours.extras.keys() == {"conditional", "auxiliary"}
    assert made.provides == {"conditional", "auxiliary"}
    assert head().provides == {"auxiliary"}


@pytest.mark.parametrize("attach", ["bottom", "experts"])
@pytest.mark.parametrize("evaluated", [False, True])
def test_predictions_do_not_depend_on_the_small_heads(attach: str, evaluated: bool, compose: Compose) -> None:
    model = make_model(compose, CHAIN, "model=smallheads", "model/bottom=flat", f"model.head.attach={attach}").train(not evaluated)
    batch = make_batch(CHAIN)
    before = model(batch)
    for parameter in (*model.head.small.parameters(), *model.head.layers.parameters()):
        parameter.data += 1.0
    after = model(batch)
    assert torch.equal(before.logits, after.logits)
    assert not torch.allclose(before.extras["auxiliary"], after.extras["auxiliary"])


def small_loss(output: Output) -> Tensor:
    return output.extras["auxiliary"].square().sum()


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_from_the_experts_they_train_experts_and_no_tower(name: str, compose: Compose) -> None:
    overrides = ("model=smallheads", "model/bottom=flat", f"model/trunk={name}", "model.head.attach=experts")
    model = make_model(compose, CHAIN, *overrides)
    small_loss(model(make_batch(CHAIN))).backward()
    assert model.embedding.weight.grad.any()
    assert all(p.grad is None for p in (*model.trunk.towers.parameters(), *model.head.inner.parameters()))
    experts = [p for n, p in model.trunk.named_parameters() if not n.startswith("towers")]
    assert all(p.grad is not None and p.grad.any() for p in experts)


def test_from_the_bottom_they_train_embeddings_and_nothing_of_the_trunk(compose: Compose) -> None:
    model = make_model(compose, CHAIN, "model=smallheads", "model/bottom=flat")
    small_loss(model(make_batch(CHAIN))).backward()
    assert model.embedding.weight.grad.any()
    assert all(p.grad is None for p in (*model.trunk.parameters(), *model.head.inner.parameters()))


@pytest.mark.parametrize("name", sorted(SHOWN))
@pytest.mark.parametrize("groups", [1, T])
def test_what_trunks_show_of_their_experts_is_what_their_towers_read(name: str, groups: int) -> None:
    trunk, features = part("trunk", name)(CHAIN, 4, width=W), nothing()
    h = trunk(torch.randn(7, groups, W), features)
    shown = features.extras["experts"]
    assert shown.shape[2] == trunk.experts_width == SHOWN[name]
    assert torch.equal(trunk.towers(shown), h)


def test_weight_zero_is_the_model_without_them(compose: Compose) -> None:
    values = []
    for overrides in (("model=smallheads", "loss.terms.auxiliary.weight=0"), ("model=mmoe", "model.dim=32")):
        torch.manual_seed(3)
        overrides = (
            *overrides,
            "model/bottom=flat",
            "model.trunk.dims=[16]",
            "model.trunk.tower_dims=[8]",
            "model.trunk.dropout=0",
        )
        model = make_model(compose, CHAIN, *overrides)
        own: dict[str, Tensor] = {n.replace("head.inner.", "head."): p for n, p in model.named_parameters()}
        generator = torch.Generator().manual_seed(1)
        for name in sorted(own):
            if not name.startswith(("head.small", "head.layers")):
                own[name].data = 0.2 * torch.randn(own[name].shape, generator=generator)
        loss = build(compose(*overrides)["loss"], schema=CHAIN)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        batch = make_batch(CHAIN)
        for _ in range(3):
            optimizer.zero_grad()
            value = sum(v.sum() for v in loss(model(batch), batch.y).values())
            value.backward()
            optimizer.step()
        values.append((value.item(), model(batch).logits))
    assert values[0][0] == values[1][0]
    assert torch.equal(values[0][1], values[1][1])


@pytest.mark.parametrize(("attach", "width"), [("bottom", W), ("experts", 9)])
@pytest.mark.parametrize("hidden", [None, 8])
def test_number_of_parameters(attach: str, width: int, hidden: int | None) -> None:
    made = SmallHeads(CHAIN, 4, H, W, inner=part("head", "linear"), attach=attach, hidden=hidden)
    trunk = nn.Module()
    trunk.experts_width = 9  # type: ignore[assignment]
    made.join(trunk)
    more = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in made.inner.parameters())
    assert more == T * (width + 1 if hidden is None else hidden * (width + 1) + hidden + 1)


def test_what_cannot_be_read_is_refused_when_the_model_is_built(compose: Compose) -> None:
    with pytest.raises(SeqmtlError, match=r"attach=experts needs a trunk that mixes experts.*Towers does not; model/trunk=mmoe"):
        make_model(compose, CHAIN, "model=smallheads", "model/bottom=flat", "model/trunk=towers", "model.head.attach=experts")
    with pytest.raises(SeqmtlError, match="attach=tower is unknown; choose from bottom, experts"):
        make_model(compose, CHAIN, "model=smallheads", "model/bottom=flat", "model.head.attach=tower")


def test_heads_that_can_be_chosen(compose: Compose) -> None:
    overrides = ("model=smallheads", "model/bottom=flat", "model/head@model.head.inner=esmm")
    output = make_model(compose, CHAIN, *overrides)(make_batch(CHAIN))
    assert {"auxiliary", "conditional"} <= output.extras.keys()
    check_pairs(compose(*overrides, "dataset=tenrec_sim"))


def test_other_models_meet_small_heads(compose: Compose) -> None:
    overrides = ("model=aitm", "model/head=small_heads", "loss=auxiliary")
    check_pairs(compose(*overrides))
    output = make_model(compose, CHAIN, *overrides)(make_batch(CHAIN))
    assert output.extras["auxiliary"].shape == (16, T)
