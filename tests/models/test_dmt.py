"""DMT against plain loops over rows, heads and items, and the numbers that can be counted by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.models.dmt import DMT, EncoderDecoder
from seqmtl.nn.transformer import Block
from seqmtl.types import Features, Field, History, Schema, Task

FIELDS = (Field("user", 7), Field("item", 9), Field("hour", 5))


def schema(**max_lens: int) -> Schema:
    histories = tuple(History(name, "item", max_len) for name, max_len in max_lens.items())
    return Schema(FIELDS, (Task("click"),), histories, next(iter(max_lens), None))


def made(schema: Schema, dim: int, lengths: dict[str, list[int]], seed: int = 0) -> Features:
    """Random vectors of double precision, with noise where there is padding."""
    g = torch.Generator().manual_seed(seed)
    rows = len(next(iter(lengths.values())))

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, dim, generator=g, dtype=torch.float64).requires_grad_()

    past = {}
    for name, n in lengths.items():
        width = max(1, *n)
        past[name] = (noise(rows, width), torch.arange(width) < torch.tensor(n).unsqueeze(1))
    return Features(noise(rows, len(FIELDS)), lookup=lambda field, ids: ids, target=noise(rows), past=past)


def shaken(bottom: DMT) -> DMT:
    """In double precision, with biases, gains and positions that cannot be mistaken for 0 or 1."""
    torch.manual_seed(1)
    bottom.double()
    with torch.no_grad():
        for p in bottom.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return bottom


def norm(x: Tensor, layer: torch.nn.Module) -> Tensor:
    x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt() * layer.weight + layer.bias


def layer(block: Block, x: Tensor, memory: list[Tensor]) -> Tensor:
    """One item or query (D,) that looks at the memory."""
    width = len(x) // block.heads
    w_q, w_k, w_v = block.qkv.weight.chunk(3)
    b_q, b_k, b_v = block.qkv.bias.chunk(3)
    q, attended = w_q @ x + b_q, []
    for h in range(block.heads if memory else 0):
        mine = slice(h * width, (h + 1) * width)
        scores = [(q[mine] * (w_k @ m + b_k)[mine]).sum() / math.sqrt(width) for m in memory]
        total = sum(s.exp() for s in scores)
        attended.append(sum(s.exp() / total * (w_v @ m + b_v)[mine] for s, m in zip(scores, memory, strict=True)))
    if memory:
        x = x + block.out(torch.cat(attended))
    x = norm(x, block.norms[0])
    hidden = (block.ffn[0].weight @ x + block.ffn[0].bias).clamp(min=0)
    return norm(x + block.ffn[2].weight @ hidden + block.ffn[2].bias, block.norms[1])


def reference(bottom: DMT, features: Features) -> Tensor:
    """The whole bottom, one item after the other."""
    assert features.target is not None
    out = []
    for i, e in enumerate(features.target):
        interests = []
        for name, part in zip(bottom.histories, bottom.parts, strict=True):
            assert isinstance(part, EncoderDecoder)
            items, mask = features.past[name]
            memory = [x * math.sqrt(len(e)) for x in items[i, : int(mask[i].sum())]]
            if part.positions is not None:
                memory = [x + p for x, p in zip(memory, part.positions, strict=False)]
            for block in part.encoder:
                memory = [layer(block, x, memory) for x in memory]
            query = e * math.sqrt(len(e))
            for block in part.decoder:
                query = layer(block, query, memory)
            interests.append(query)
        out.append(torch.cat([features.fields[i].flatten(), *interests]))
    return torch.stack(out).unsqueeze(1)


@pytest.mark.parametrize(
    "options",
    [{}, {"positions": "none"}, {"out_projection": False}, {"blocks": 2, "heads": 1, "ffn": 3}],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_it_equals_a_loop_over_items_values_and_gradients(options: dict[str, Any]) -> None:
    s = schema(click=6, skip=3)
    bottom = shaken(DMT(s, 4, **({"heads": 2} | options)))
    features = made(s, 4, {"click": [2, 0, 5, 1], "skip": [0, 0, 3, 2]})
    inputs = [features.fields, features.target, *(items for items, _ in features.past.values()), *bottom.parameters()]
    ours, theirs = bottom(features), reference(bottom, features)
    assert ours.shape == (4, 1, bottom.width) == (4, 1, (3 + 2) * 4)
    torch.testing.assert_close(ours, theirs)
    for mine, wanted in zip(*(torch.autograd.grad(z.sin().sum(), inputs) for z in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize(("out_projection", "wanted"), [(True, 131_520), (False, 120_960)])
def test_parameters_at_the_lengths_of_tenrec(out_projection: bool, wanted: int) -> None:
    bottom = DMT(schema(click=50, follow=10, like=20, share=10, negative=50), 32, ffn=128, out_projection=out_projection)
    assert sum(p.numel() for p in bottom.parameters()) == wanted


def test_an_empty_history_leaves_what_the_target_alone_gives() -> None:
    s = schema(click=3)
    bottom = shaken(DMT(s, 4, heads=2))
    features = made(s, 4, {"click": [0, 0, 0]})
    assert features.target is not None
    z = bottom(features)
    assert torch.isfinite(z).all()
    block = bottom.parts[0].decoder[0]
    wanted = torch.stack([layer(block, 2 * e, []) for e in features.target])  # sqrt(4) = 2
    torch.testing.assert_close(z[:, 0, 12:], wanted)


def test_order_matters_by_positions_alone() -> None:
    s = schema(click=4)
    features = made(s, 4, {"click": [4, 4]})
    turned = made(s, 4, {"click": [4, 4]})
    turned.past = {"click": (features.past["click"][0].flip(1), features.past["click"][1])}
    without, learned = (shaken(DMT(s, 4, heads=2, positions=kind)) for kind in ("none", "learned"))
    torch.testing.assert_close(without(features), without(turned))
    assert (learned(features) - learned(turned)).abs().max() > 1e-3


def test_a_position_counts_from_the_oldest_item() -> None:
    """The newest item of a row of two has the second position, however long other rows are."""
    s = schema(click=5)
    bottom = shaken(DMT(s, 4, heads=2))
    bottom(made(s, 4, {"click": [2, 0]})).sin().sum().backward()
    moved = bottom.parts[0].positions.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, True, False, False, False]


def test_dropout_falls_on_trainings_alone() -> None:
    s = schema(click=3)
    bottom = DMT(s, 4, heads=2, dropout=0.5).double()
    features = made(s, 4, {"click": [1, 3]})
    assert not torch.equal(bottom(features), bottom(features))
    bottom.eval()
    torch.testing.assert_close(bottom(features), reference(bottom, features))


def test_each_history_has_weights_of_its_own() -> None:
    s = schema(click=3, skip=3)
    bottom = shaken(DMT(s, 4, heads=2))
    features = made(s, 4, {"click": [3, 2], "skip": [1, 0]})
    grad = torch.autograd.grad(bottom(features)[:, 0, -4:].sin().sum(), list(bottom.parameters()), allow_unused=True)
    of_click = len(list(bottom.parts[0].parameters()))
    assert all(g is None or not g.any() for g in grad[:of_click])
    assert any(g is not None and g.any() for g in grad[of_click:])


@pytest.mark.parametrize(
    ("dim", "options", "says"),
    [
        (6, {"heads": 4}, "heads=4 does not divide the width 6"),
        (4, {"positions": "sine"}, "choose from learned, none"),
        (4, {"blocks": 0}, "blocks=0 must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(dim: int, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        DMT(schema(click=3), dim, **options)


def test_data_without_histories_are_refused() -> None:
    with pytest.raises(SeqmtlError, match="DMT reads histories"):
        DMT(schema(), 4)
