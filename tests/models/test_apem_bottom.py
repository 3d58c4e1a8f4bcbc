"""APEM: limits in which it is something simpler, and every option."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import CHAIN, Compose, make_batch, make_model
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.apem import APEM, PatternSelectors
from seqmtl.models.asrg import ASRG
from seqmtl.types import Features, Field, Schema, Task

DIM, K, N, HEADS = 6, 5, 4, 2
SCHEMA = Schema(tuple(Field(f"f{i}", 9) for i in range(N)), (Task("click"), Task("purchase", "click"), Task("refund", "purchase")))
WIDE, NARROW = torch.tensor(10.0), torch.tensor(1e-3)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def asrg(**options: Any) -> ASRG:
    given = {"selector_dims": (), "asrg": "dynamic", "residual": "none", "mask_mode": "query"} | options
    return ASRG(N, DIM, HEADS, K, **given)


def selector_says(layer: ASRG, s: float) -> None:
    assert layer.selector is not None
    linear = layer.selector[-1]
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.bias, s)


def attention_output(layer: ASRG, h: Tensor, gamma: Tensor) -> Tensor:
    """O of eq. 16, which the norm hides."""
    kept: list[Tensor] = []
    handle = layer.attention.register_forward_hook(lambda module, args, out: kept.append(out))
    layer(h, gamma)
    handle.remove()
    return kept[0].squeeze(1)


def apem(**options: Any) -> APEM:
    return APEM(SCHEMA, DIM, **({"layers": 2, "inducing": K, "heads": HEADS} | options))


def features(h: Tensor) -> Features:
    return Features(h, lambda field, ids: ids)


def test_zeta_one_is_ordinary_attention() -> None:
    layer, h = asrg(), torch.randn(3, N, DIM)
    selector_says(layer, 100.0)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)

    w_k, w_v, w_o = (m.weight[0] for m in (layer.attention.key, layer.attention.value, layer.attention.out))
    o = F.scaled_dot_product_attention(heads(layer.points.expand(3, -1, -1)), heads(h @ w_k.T), heads(h @ w_v.T))
    torch.testing.assert_close(attention_output(layer, h, WIDE), o.transpose(1, 2).flatten(-2) @ w_o.T)
    # The narrower reading of "without ASRG" is the same thing.
    plain = asrg(asrg="induced_no_selector")
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if "selector" not in k})
    torch.testing.assert_close(layer(h, WIDE)[0], plain(h, WIDE)[0])
    assert plain(h, WIDE)[1] is None


def test_zeta_zero_leaves_the_mean_of_the_values() -> None:
    layer, h = asrg(), torch.randn(3, N, DIM)
    selector_says(layer, -100.0)
    mean = layer.attention.out(layer.attention.value(h.mean(1, keepdim=True)))
    torch.testing.assert_close(attention_output(layer, h, WIDE), mean.expand(3, K, DIM))
    # mask_mode=output switches the rows off instead: LN(0) is the norm's bias.
    off = asrg(mask_mode="output")
    selector_says(off, -100.0)
    nn.init.normal_(off.norm.bias)
    torch.testing.assert_close(off(h, WIDE)[0], off.norm.bias.expand(3, K, DIM))


def test_the_order_of_fields_counts_in_the_selector_only() -> None:
    layer, h = asrg(), torch.randn(3, N, DIM)
    turned = h[:, torch.tensor([2, 0, 3, 1])]
    assert not torch.allclose(layer(h, WIDE)[1], layer(turned, WIDE)[1])
    nn.init.zeros_(layer.selector[-1].weight)
    nn.init.normal_(layer.selector[-1].bias)
    torch.testing.assert_close(attention_output(layer, h, WIDE), attention_output(layer, turned, WIDE))


def test_a_selector_outside_its_step_is_dead_and_inside_it_learns() -> None:
    for s, alive in ((0.6e-3, False), (0.2e-3, True)):
        layer, h = asrg(residual="query"), torch.randn(3, N, DIM)
        selector_says(layer, s)
        y, _ = layer(h, NARROW)
        (y * torch.randn_like(y)).sum().backward()
        assert bool(layer.selector[-1].weight.grad.any()) is alive


@pytest.mark.parametrize("residual", ["query", "input", "none", "mean", "proj", "concat"])
def test_residuals(residual: str) -> None:
    layer = ASRG(K, DIM, HEADS, K, (), "dynamic", residual, "query")
    h = torch.randn(3, K, DIM)
    y, zeta = layer(h, WIDE)
    o = attention_output(layer, h, WIDE)
    query = layer.points * zeta.unsqueeze(-1)
    wanted = {
        "query": lambda: o + query,
        "input": lambda: o + h,
        "none": lambda: o,
        "mean": lambda: o + h.mean(1, keepdim=True),
        "proj": lambda: o + torch.einsum("kn,bnd->bkd", layer.mix, h),
        "concat": lambda: torch.cat([o, h], 1),
    }[residual]()
    torch.testing.assert_close(y, F.layer_norm(wanted, (DIM,)))
    assert y.shape == (3, layer.rows, DIM)


def test_auto_adds_the_query_first_and_the_input_after() -> None:
    assert [layer.residual for layer in apem(layers=3).layers] == ["query", "input", "input"]
    assert [layer.rows for layer in apem(layers=3, residual="concat").layers] == [K + N, 2 * K + N, 3 * K + N]


@pytest.mark.parametrize("projections", ["per_task", "shared", "raw"])
def test_an_indicator_moves_its_own_task_only(projections: str) -> None:
    made = apem(projections=projections)
    z = made(features(torch.randn(8, N, DIM)))
    assert z.shape == (8, 3, DIM)
    for t in range(3):
        made.zero_grad()
        (z[:, t] * torch.randn(8, DIM)).sum().backward(retain_graph=True)
        for selector in made.selectors:
            moved = [bool(g.any()) for g in selector.alpha.grad]
            assert moved == [u == t for u in range(3)]


def test_raw_selectors_without_an_indicator_are_the_mean() -> None:
    selectors = PatternSelectors(3, DIM, HEADS, "raw")
    nn.init.zeros_(selectors.alpha)
    y = torch.randn(4, K, DIM)
    mean = F.layer_norm(y.mean(1), (DIM,)).unsqueeze(1).expand(4, 3, DIM)
    torch.testing.assert_close(selectors(y, None), mean)
    previous = torch.randn(4, 3, DIM)
    torch.testing.assert_close(selectors(y, previous), F.layer_norm(previous + y.mean(1, keepdim=True), (DIM,)))


def test_selectors_of_all_tasks_at_once_equal_one_by_one() -> None:
    together, y = PatternSelectors(3, DIM, HEADS, "per_task"), torch.randn(4, K, DIM)
    for t in range(3):
        alone = PatternSelectors(1, DIM, HEADS, "per_task")
        alone.load_state_dict({k: v[t : t + 1] for k, v in together.state_dict().items()})
        torch.testing.assert_close(alone(y, None)[:, 0], together(y, None)[:, t])


def test_without_asrg_is_self_attention_over_the_fields() -> None:
    made = apem(asrg="self_attention")
    seen = features(torch.randn(2, N, DIM))
    assert made(seen).shape == (2, 3, DIM)
    assert [layer.rows for layer in made.layers] == [N, N]
    layer, h = made.layers[0], seen.fields
    torch.testing.assert_close(layer(h, WIDE)[0], F.layer_norm(h + layer.attention(h.unsqueeze(1), h).squeeze(1), (DIM,)))
    assert layer.attention.query is not None
    assert not seen.extras


def test_without_pattern_selectors_is_one_mean_for_all_tasks() -> None:
    made, seen = apem(pooling="mean"), features(torch.randn(2, N, DIM))
    y = made.layers[1](made.layers[0](seen.fields, WIDE)[0], WIDE)[0]
    torch.testing.assert_close(made(seen), y.mean(1, keepdim=True))
    assert not any("selectors" in name for name, _ in made.named_parameters())


def test_the_rate_of_selection_is_shown() -> None:
    made, seen = apem(layers=1), features(torch.randn(2, N, DIM))
    nn.init.zeros_(made.layers[0].selector[-1].weight)
    made.layers[0].selector[-1].bias.data = torch.tensor([[9.0, 9.0, -9.0, 0.0, -9.0]])
    made(seen)
    assert seen.extras["selected"].item() == pytest.approx(2.5 / 5)
    assert seen.extras["undecided"].item() == pytest.approx(1 / 5)
    assert not seen.extras["selected"].requires_grad
    assert seen.extras["selected"].shape == ()


def test_hidden_layers_of_the_selector() -> None:
    extra = sum(p.numel() for p in asrg(selector_dims=(7,)).parameters()) - sum(p.numel() for p in asrg().parameters())
    assert extra == (N * DIM * 7 + 7 + 7 * K + K) - (N * DIM * K + K)


def test_a_checkpoint_restores_gamma() -> None:
    made, h = apem().eval(), 30 * torch.randn(4, N, DIM)
    before = made(features(h))
    made.set_step(40_000)
    after = made(features(h))
    assert not torch.allclose(before, after)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    restored = apem().eval()
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.gamma(restored.step).item() == pytest.approx(2.0)
    assert torch.equal(restored(features(h)), after)


@pytest.mark.parametrize("option", ["asrg", "residual", "mask_mode", "projections", "pooling"])
def test_an_unknown_choice_is_refused(option: str) -> None:
    with pytest.raises(SeqmtlError, match=rf"model\.bottom\.{option}=x is unknown; choose from "):
        apem(**{option: "x"})


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SeqmtlError, match="heads=4 does not divide the width 6"):
        apem(heads=4)
    assert [APEM(SCHEMA, dim).layers[0].attention.heads for dim in (18, 5)] == [2, 1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.bottom.asrg=self_attention"],
        ["model.bottom.asrg=induced_no_selector"],
        ["model.bottom.pooling=mean", "model.trunk.dims=[64,32]"],
        ["model.bottom.residual=concat", "model.bottom.mask_mode=output"],
        ["model.bottom.residual=proj", "model.bottom.projections=shared"],
        ["model.bottom.selector_dims=[8]", "model.bottom.gamma.steps_to_floor=10", "model.bottom.gamma.min=0.1"],
    ],
    ids=" ".join,
)
def test_options_compose_and_no_parameter_is_dead(overrides: list[str], compose: Compose) -> None:
    model = make_model(compose, CHAIN, "model=apem", "model.bottom.layers=2", "model.bottom.inducing=8", *overrides)
    F.binary_cross_entropy_with_logits(model(batch := make_batch(CHAIN, 64)).logits, batch.y).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_set_step_of_the_config_reaches_the_floor(compose: Compose) -> None:
    model = make_model(compose, CHAIN, "model=apem", "experiment=demo")
    (bottom,) = [m for m in model.modules() if hasattr(m, "set_step")]
    bottom.set_step(297)
    assert bottom.gamma(bottom.step).item() == pytest.approx(1e-3, abs=1e-9)
    bottom.set_step(147)
    assert bottom.gamma(bottom.step).item() > 0.05
