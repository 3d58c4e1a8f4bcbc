"""TIM against plain loops over tasks and behaviours, and the limits in which it is something simpler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import TREE
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.conditional import conditional_norm
from seqmtl.models.conditional_transformer import ConditionalLayer
from seqmtl.models.tim import TIM
from seqmtl.types import Features, Field, History, Schema, Task

B, D, HEADS = 7, 8, 2
T, M = len(TREE.tasks), len(TREE.histories)
LENGTHS = {"click": [3, 0, 1, 2, 3, 0, 0], "skip": [5, 4, 0, 1, 1, 0, 5], "like": [0, 2, 0, 0, 1, 0, 0]}  # row 5 has nothing
TENREC = Schema(
    tuple(Field(f"f{i}", 9) for i in range(5)),
    tuple(Task(name) for name in ("click", "follow", "like", "share")),
    tuple(History(name, "f1", 10) for name in ("click", "follow", "like", "share", "negative")),
)
INJECTIONS = ("ln", "qkv", "ffn1", "ffn2")


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tim(moved: bool = True, **options: Any) -> TIM:
    """`moved`: away from the start, at which all pairs are the same."""
    made = TIM(TREE, D, **({"heads": HEADS} | options))
    if moved:
        for parameter in made.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def features(lengths: dict[str, list[int]] = LENGTHS) -> Features:
    past = {}
    for h in TREE.histories:
        mask = torch.arange(h.max_len) < torch.tensor(lengths[h.name]).unsqueeze(1)
        past[h.name] = (torch.randn(B, h.max_len, D, requires_grad=True), mask)
    fields = torch.randn(B, len(TREE.fields), D)
    return Features(fields, lambda field, ids: ids, target=torch.randn(B, D, requires_grad=True), past=past)


def interests(made: TIM, given: Features) -> Tensor:
    """(B,T,M,D)"""
    return made(given)[..., len(TREE.fields) * D :].unflatten(2, (M, D))


# One pair, one row, one head at a time: what the paper writes.


def hyper(made: TIM, i: int, t: int, b: int) -> Tensor:
    first, last = made.hypernetworks.hidden, made.hypernetworks.out
    pair = torch.cat([made.hypernetworks.tasks[t], made.hypernetworks.behaviours[b]])
    return last.weight[i] @ (first.weight[i] @ pair + first.bias[i]).relu() + last.bias[i]


def naive_layer(made: TIM, layer: ConditionalLayer, which: int, t: int, b: int, query: Tensor, memory: Tensor) -> Tensor:
    """query (Q,D), memory (L,D) without padding → (Q,D)."""
    n, per_layer = len(made.hypernetworks.parts), made.hypernetworks.out.n // 2

    def injected(name: str, w: Tensor) -> Tensor:
        if name not in made.hypernetworks.parts:
            return w
        delta = hyper(made, which * per_layer + made.hypernetworks.parts.index(name), t, b)
        return w * (1 + delta[: w.numel()].view_as(w))

    def bias(name: str, c: Tensor) -> Tensor:
        return c * (1 + hyper(made, which * per_layer, t, b)[-c.numel() :]) if name in made.hypernetworks.parts else c

    def norm(x: Tensor, position: int) -> Tensor:
        plain: nn.LayerNorm = (layer.norm_1, layer.norm_2)[position]
        mean = x.mean(1, keepdim=True)
        xhat = (x - mean) / (((x - mean) ** 2).mean(1, keepdim=True) + 1e-5).sqrt()
        if made.hypernetworks.parts[0] != "norm_1":
            return plain.weight * xhat + plain.bias
        gamma, beta = (hyper(made, which * per_layer + 2 * position + i, t, b) for i in range(2))
        return (gamma + made.hypernetworks.added) * plain.weight * xhat + beta + plain.bias

    assert per_layer == (2 * n if made.hypernetworks.parts[0] == "norm_1" else n)
    q, k, v = (
        query @ injected("query", layer.query.weight).T,
        *(memory @ injected(name, getattr(layer, name).weight).T for name in ("key", "value")),
    )
    d = D // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * d, (h + 1) * d)
        scores = q[:, part] @ k[:, part].T / d**0.5
        heads.append(scores.softmax(-1) @ v[:, part] if len(memory) else torch.zeros(len(query), d))
    o = norm(query + torch.cat(heads, 1) @ layer.out.weight.T, 0)
    first = (o @ injected("ffn_1", layer.ffn_1.weight).T + bias("ffn_1", layer.ffn_1.bias)).relu()
    return norm(o + first @ injected("ffn_2", layer.ffn_2.weight).T + bias("ffn_2", layer.ffn_2.bias), 1)


def naive(made: TIM, given: Features) -> Tensor:
    assert given.target is not None
    rows = []
    for i in range(B):
        for t in range(T):
            for b, (items, mask) in enumerate(given.past.values()):
                x, e = items[i, : int(mask[i].sum())], given.target[i : i + 1]
                if made.null is not None:
                    x = torch.cat([made.null[b : b + 1], x])
                if made.positions is not None:
                    x = x + made.positions[: len(x)]
                if made.empty == "zero" and not len(x):
                    rows.append(torch.zeros(D))
                    continue
                enc = naive_layer(made, made.encoder, 0, t, b, x, x)
                rows.append(naive_layer(made, made.decoder, 1, t, b, e, enc)[0])
    return torch.stack(rows).view(B, T, M, D)


OPTIONS: list[dict[str, Any]] = [
    *({"injection": injection} for injection in INJECTIONS),
    *({"empty": empty} for empty in ("zero", "null_token")),
    {"gamma_param": "residual"},
    {"positions": "learned"},
    {"positions": "learned", "empty": "null_token", "injection": "qkv"},
    {"ffn": 5, "hyper_hidden": 3, "injection": "ffn1"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_all_pairs_at_once_are_a_loop_over_them(options: dict[str, Any]) -> None:
    made, given = tim(**options), features()
    wanted = naive(made, given)
    got = interests(made, given)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    learns = [*made.parameters(), given.target, *(items for items, _ in given.past.values())]
    weights = torch.randn_like(wanted)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), learns) for x in (got, wanted)), strict=True):
        assert a.any()
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_the_representation_is_fields_and_interests() -> None:
    made, given = tim(), features()
    z = made(given)
    assert z.shape == (B, T, made.width)
    assert made.width == (len(TREE.fields) + M) * D
    for t in range(T):
        torch.testing.assert_close(z[:, t, : len(TREE.fields) * D], given.fields.flatten(1))
    assert given.extras["empty_click"] == pytest.approx(3 / 7)
    assert given.extras["empty_like"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("options", [{"injection": i} for i in INJECTIONS] + [{"gamma_param": "residual"}], ids=str)
def test_at_the_start_all_tasks_share_one_transformer(options: dict[str, Any]) -> None:
    made, given = tim(moved=False, **options), features()
    got = interests(made, given)
    for t in range(1, T):
        torch.testing.assert_close(got[:, t], got[:, 0])
    plain = tim(moved=False, injection="qkv")
    plain.load_state_dict({k: v for k, v in made.state_dict().items() if "hyper" not in k}, strict=False)
    torch.testing.assert_close(got, interests(plain, given))


def test_hypernetworks_that_say_zero() -> None:
    given = features()
    for gamma_param in ("direct", "residual"):
        made = tim(gamma_param=gamma_param)
        nn.init.zeros_(made.hypernetworks.out.weight)
        nn.init.zeros_(made.hypernetworks.out.bias)
        got = interests(made, given)
        if gamma_param == "direct":  # eq. 6 leaves nothing but the bias of the last norm
            torch.testing.assert_close(got, made.decoder.norm_2.bias.expand_as(got))
        else:
            assert got.std(0).min() > 1e-3
            torch.testing.assert_close(got, got[:, :1].expand_as(got))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_tasks_interest_depends_on_its_embedding(injection: str) -> None:
    made, given = tim(injection=injection), features()
    before = interests(made, given)
    assert (before[:, 0] - before[:, 1]).abs().max() > 1e-2
    made.hypernetworks.tasks.data = made.hypernetworks.tasks.data[[1, 0, 2, 3]]
    torch.testing.assert_close(interests(made, given), before[:, [1, 0, 2, 3]])
    made.hypernetworks.tasks.data[1] = made.hypernetworks.tasks.data[0]
    same = interests(made, given)
    torch.testing.assert_close(same[:, 0], same[:, 1])


@pytest.mark.parametrize("empty", ["residual", "zero", "null_token"])
def test_a_history_without_items(empty: str) -> None:
    made, given = tim(empty=empty), features()
    assert given.target is not None
    alone = interests(made, given)[5]  # (T,M,D) of the row that has none
    noisy = Features(given.fields, given.lookup, target=given.target, past={k: (x + 9, m) for k, (x, m) in given.past.items()})
    torch.testing.assert_close(interests(made, noisy)[5], alone)
    (slope,) = torch.autograd.grad(alone.square().sum(), given.target)
    assert bool(slope[5].any()) is (empty != "zero")
    assert bool(alone.any()) is (empty != "zero")
    if empty == "residual":  # attention that adds nothing
        nn.init.zeros_(made.decoder.out.weight)
        torch.testing.assert_close(interests(made, given)[5], alone)


@pytest.mark.parametrize("empty", ["residual", "zero", "null_token"])
def test_a_batch_without_any_items_has_finite_gradients(empty: str) -> None:
    made, given = tim(empty=empty), features({name: [0] * B for name in LENGTHS})
    z = made(given)
    z.square().sum().backward()
    assert torch.isfinite(z).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())
    assert not any(items.grad.any() for items, _ in given.past.values() if items.grad is not None)


@pytest.mark.parametrize(("positions", "same"), [("none", True), ("learned", False)])
def test_the_order_of_items(positions: str, same: bool) -> None:
    made, given = tim(positions=positions), features({name: [2] * B for name in LENGTHS})
    turned = {k: (x[:, [1, 0, *range(2, x.shape[1])]], m) for k, (x, m) in given.past.items()}
    after = interests(made, Features(given.fields, given.lookup, target=given.target, past=turned))
    assert torch.allclose(interests(made, given), after, atol=1e-9) is same


def test_layer_norm_by_hand() -> None:
    rows = [1]
    gamma_beta = (torch.ones(1, 1, 4), torch.zeros(1, 1, 4))
    x = torch.tensor([[[1.0, 2, 3, 4]]])
    wanted = torch.tensor([[[-1.3416354, -0.4472118, 0.4472118, 1.3416354]]])
    for given in (gamma_beta, None):
        torch.testing.assert_close(conditional_norm(nn.LayerNorm(4), x, given, rows), wanted, rtol=0, atol=1e-7)
    gamma_beta = (torch.full((1, 1, 4), 2.0), torch.full((1, 1, 4), 0.5))
    torch.testing.assert_close(conditional_norm(nn.LayerNorm(4), x, gamma_beta, rows), 2 * wanted + 0.5, rtol=0, atol=1e-6)


def test_norms_of_behaviours_are_dealt_in_order() -> None:
    x, gamma, beta = torch.randn(5, 1, 4), torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    wanted = gamma[[0, 0, 2, 2, 2]] * F.layer_norm(x, (4,)) + beta[[0, 0, 2, 2, 2]]
    torch.testing.assert_close(conditional_norm(nn.LayerNorm(4), x, (gamma, beta), [2, 0, 3]), wanted)


@pytest.mark.parametrize(("injection", "size"), [("ln", 25_088), ("qkv", 215_232), ("ffn1", 282_944), ("ffn2", 276_608)])
def test_numbers_of_parameters(injection: str, size: int) -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    made = TIM(TENREC, 32, injection=injection)
    assert count(made.encoder) + count(made.decoder) == 25_152
    assert count(made.hypernetworks.hidden) + count(made.hypernetworks.out) == size
    assert count(made) == 25_152 + size + 288  # and the types of tasks and behaviours
    more = Schema(TENREC.fields, (*TENREC.tasks, Task("rate")), (*TENREC.histories, History("rate", "f1", 10)))
    larger = TIM(more, 32, injection=injection)
    assert count(larger) == count(made) + 2 * 32  # the two new types


def test_half_precision_keeps_gains_near_one_apart() -> None:
    torch.set_default_dtype(torch.float32)
    made = tim(moved=False)
    gain = made.hypernetworks.out.bias
    assert gain is not None
    gain.data[0] += 1e-3  # bfloat16 has no number between 1 and 1.0078
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (conditions, _) = made.hypernetworks()
        rows = [3] * M
        x = torch.randn(3 * M, 1, D)
        moved = conditional_norm(made.encoder.norm_1, x, conditions["norm_1"].unbind(2), rows)
    torch.testing.assert_close(moved, 1.001 * F.layer_norm(x, (D,)).expand_as(moved), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("schema", "options", "says"),
    [
        (TREE, {"injection": "ffn"}, "qkv, ffn1, ffn2"),
        (TREE, {"empty": "none"}, "null_token"),
        (TREE, {"heads": 3}, "heads=3"),
        (TREE.read([]), {}, "dataset.histories"),
    ],
)
def test_what_cannot_be_is_refused(schema: Schema, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        TIM(schema, D, **options)
