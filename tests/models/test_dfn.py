"""DFN: its equations written out with loops, whose feedback meets whose, what an empty history gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_cases import CHAIN, part
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.models.dfn import DFN
from seqmtl.types import Features, Field, History, Schema, Task

D = 4
SIGNS = {"skip": -1, "click": 1, "hide": -1, "like": 1, "share": 1}
FIELDS = (Field("item", 9), Field("user", 9))
HISTORIES = tuple(History(name, "item", 6, sign=sign) for name, sign in SIGNS.items())
SCHEMA = Schema(FIELDS, (Task("click"),), HISTORIES, "click")
LENGTHS = {"skip": [0, 4, 2, 0], "click": [0, 5, 0, 1], "hide": [0, 1, 0, 3], "like": [0, 2, 3, 1], "share": [0, 0, 1, 1]}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def dfn(schema: Schema = SCHEMA, **options: Any) -> DFN:
    made = DFN(schema, D, **({"heads": 2, "attention_dims": [5]} | options)).double()
    for parameter in made.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    return made


def features(lengths: dict[str, list[int]] = LENGTHS) -> Features:
    rows = len(next(iter(lengths.values())))
    fields, past = torch.randn(rows, 2, D).double(), {}
    for name, n in lengths.items():
        width = max(n) + 2
        past[name] = torch.randn(rows, width, D).double(), torch.arange(width) < torch.tensor(n).unsqueeze(1)
    return Features(fields, lambda field, ids: ids, target=fields[:, 0], past=past)


def internal(made: DFN, m: int, tokens: list[Tensor]) -> Tensor:
    own = made.internal[m]
    q, k, v = ([own.qkv.weight[i * D : (i + 1) * D] @ x for x in tokens] for i in range(3))
    size, out = D // made.heads, []
    for i in range(len(tokens)):
        heads = []
        for h in range(made.heads):
            some = slice(h * size, (h + 1) * size)
            e = [(q[i][some] @ k_j[some] / D**0.5).exp() for k_j in k]
            heads.append(sum(e_j / sum(e) * v_j[some] for e_j, v_j in zip(e, v, strict=True)))
        inner = (own.hidden.weight @ torch.cat(heads) + own.hidden.bias).clamp(min=0)
        out.append(own.out.weight @ inner + own.out.bias)
    return sum(out) / (len(out) if made.pool == "mean" else 1)


def external(unit: Any, q: Tensor, items: list[Tensor]) -> Tensor:
    if not items:
        return torch.zeros(D).double()
    pairs = [torch.stack([torch.cat([q, x, q - x, q * x])]) for x in items]
    last = unit.layers[0]
    hidden = [(x @ unit.first.weight.T + unit.first.bias).clamp(min=0) for x in pairs]
    e = [((x @ last.weight.T).squeeze() / D**0.5).exp() for x in hidden]
    return sum(e_i / sum(e) * x for e_i, x in zip(e, items, strict=True))


def written_out(made: DFN, given: Features) -> Tensor:
    rows = []
    for b in range(len(given.fields)):
        items = []
        for name in made.histories:
            x, mask = given.past[name]
            items.append([x[b, i] for i in range(int(mask[b].sum()))])
        o = [internal(made, m, [given.target[b], *x]) for m, x in enumerate(items)]
        f = [
            external(made.external[i][j], o[p], items[n]) for i, n in enumerate(made.negative) for j, p in enumerate(made.positive)
        ]
        rows.append(torch.cat([given.fields[b].flatten(), *o, *f]))
    return torch.stack(rows).unsqueeze(1)


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_equations_written_out(pool: str) -> None:
    made, given = dfn(pool=pool), features()
    z = made(given)
    assert z.shape == (4, 1, made.width)
    assert made.width == (2 + 5 + 3 * 2) * D
    torch.testing.assert_close(z, written_out(made, given))


def test_without_negative_feedback_there_is_no_external_part() -> None:
    made = dfn(replace(SCHEMA, histories=HISTORIES[3:], main_history="like"))
    given = features({name: LENGTHS[name] for name in ("like", "share")})
    assert made.width == (2 + 2) * D
    assert not list(made.external.parameters())
    torch.testing.assert_close(made(given), written_out(made, given))


def test_without_positive_feedback_it_is_refused() -> None:
    with pytest.raises(SeqmtlError, match=r"all that there are \(skip\) are negative; .* dataset.histories.skip.sign=1"):
        dfn(replace(SCHEMA, histories=HISTORIES[:1], main_history="skip"))
    with pytest.raises(SeqmtlError, match="DFN reads histories"):
        dfn(replace(SCHEMA, histories=(), main_history=None))


def test_without_items_the_target_is_alone_and_negative_feedback_is_nothing() -> None:
    made, given = dfn(), features({name: [0, 0] for name in SIGNS})
    z = made(given).unflatten(-1, (-1, D))[:, 0]
    for m, own in enumerate(made.internal):
        value = given.target @ own.qkv.weight[2 * D :].T  # its weight is 1
        torch.testing.assert_close(z[:, 2 + m], own.out(own.hidden(value).relu()))
    assert not z[:, 7:].any()
    z.square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def test_each_history_has_weights_of_its_own() -> None:
    made, given = dfn(), features({name: [3, 2] for name in SIGNS})
    before = made(given).unflatten(-1, (-1, D))[:, 0]
    made.internal[1].hidden.bias.data += 1  # click
    made.external[1][2].first.weight.data += 1  # hide, as share finds it
    after = made(given).unflatten(-1, (-1, D))[:, 0]
    changed = (after - before).abs().amax((0, 2)) > 1e-6
    # Fields 0, 1; internal 2 to 6; external: skip by click, like, share, then hide.
    assert changed.nonzero().squeeze(1).tolist() == [3, 7, 10, 12]


def test_a_single_negative_item_is_what_every_positive_finds() -> None:
    made, given = dfn(), features({name: [1, 1] for name in SIGNS})
    z = made(given).unflatten(-1, (-1, D))[:, 0]
    for n, name in enumerate(("skip", "hide")):
        for p in range(3):
            torch.testing.assert_close(z[:, 7 + 3 * n + p], given.past[name][0][:, 0])


def test_the_order_of_items_does_not_count() -> None:
    made, given = dfn(), features({name: [3, 5] for name in SIGNS})
    turned = {}
    for name, (items, mask) in given.past.items():
        x = items.clone()
        x[0, :3], x[1, :5] = items[0, [2, 0, 1]], items[1, [4, 2, 0, 3, 1]]
        turned[name] = (x, mask)
    torch.testing.assert_close(made(Features(given.fields, given.lookup, given.target, turned)), made(given))


def test_gradients_reach_the_padding_nowhere_and_every_item() -> None:
    made, given = dfn(), features()
    for items, _ in given.past.values():
        items.requires_grad_()
    made(given).square().sum().backward()
    for items, mask in given.past.values():
        assert torch.equal(items.grad.abs().sum(-1) > 0, mask)


@pytest.mark.parametrize(("signs", "wanted"), [([1, 1, 1, 1, -1], 73_764 - 4), ([1, 1, -1, 1, -1], 82_086 - 6), ([1] * 5, 57_120)])
def test_parameters(signs: list[int], wanted: int) -> None:
    """M (3D² + 8D² + 5D), and 4D·32 + 32 + 33 for each pair of a positive and a negative history, less a bias without effect."""
    fields = tuple(Field(f"f{i}", 9) for i in range(5))
    histories = tuple(History(f"h{m}", "f1", 50, sign=sign) for m, sign in enumerate(signs))
    made = part("bottom", "dfn")(Schema(fields, (Task("click"),), histories, "h0"), 32)
    assert sum(p.numel() for p in made.parameters()) == wanted
    pairs = signs.count(1) * signs.count(-1)
    assert made.width == (5 + 5 + pairs) * 32


def test_all_histories_are_read_whatever_their_order() -> None:
    made = DFN(CHAIN, 8)
    assert made.histories == ("click", "skip", "like")
    assert (made.positive, made.negative) == ([0, 2], [1])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"heads": 3}, "heads=3 does not divide the width 4"), ({"pool": "max"}, "pool=max is unknown; choose from mean, sum")],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        dfn(**options)
