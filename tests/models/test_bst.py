"""BST: its block written out with loops, for every option; positions; the row without a history."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, part
from torch import Tensor
from torch.nn.functional import layer_norm, leaky_relu

from seqmtl.errors import SeqmtlError
from seqmtl.models.bst import BST
from seqmtl.types import Features, Field, History, Schema, Task

D, L = 4, 5
SCHEMA = Schema(
    (Field("user", 9), Field("item", 9)),
    (Task("click"),),
    (History("like", "item", 2), History("click", "item", L)),
    "click",
)
LENGTHS = [0, 1, L, 3, 2]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def bst(**options: Any) -> BST:
    made = BST(SCHEMA, D, **({"heads": 2, "dropout": 0.0} | options)).double()
    for parameter in made.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    return made


def features(lengths: list[int] = LENGTHS, width: int = L) -> Features:
    fields, items = torch.randn(len(lengths), 2, D).double(), torch.randn(len(lengths), width, D).double()
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    return Features(fields, lambda field, ids: ids, target=fields[:, 1], past={"click": (items, mask)})


def block(made: Any, tokens: list[Tensor]) -> list[Tensor]:
    """Equations 2 to 5 of the paper for the tokens of one row, head by head."""
    w, b, width = made.qkv.weight, made.qkv.bias, len(tokens[0])
    q, k, v = ([w[i * width : (i + 1) * width] @ x + b[i * width : (i + 1) * width] for x in tokens] for i in range(3))
    size, out = width // made.heads, []
    for i, x in enumerate(tokens):
        heads = []
        for h in range(made.heads):
            some = slice(h * size, (h + 1) * size)
            e = [(q[i][some] @ k_j[some] / size**0.5).exp() for k_j in k]
            heads.append(sum(e_j / sum(e) * v_j[some] for e_j, v_j in zip(e, v, strict=True)))
        s = x + made.out.weight @ torch.cat(heads) + made.out.bias
        s = layer_norm(s, [width], made.norms[0].weight, made.norms[0].bias)
        inner = leaky_relu(made.ffn[0].weight @ s + made.ffn[0].bias)
        f = s + made.ffn[2].weight @ inner + made.ffn[2].bias
        out.append(layer_norm(f, [width], made.norms[1].weight, made.norms[1].bias))
    return out


def written_out(made: BST, given: Features, pool: str, positions: str) -> Tensor:
    items, mask = given.past["click"]
    rows = []
    for b, n in enumerate(mask.sum(1).tolist()):
        tokens = [given.target[b], *(items[b, n - i] for i in range(1, n + 1))]  # the target, then the newest first
        if positions == "add":
            tokens = [x + made.positions[i] for i, x in enumerate(tokens)]
        if positions == "concat":
            tokens = [torch.cat([x, made.positions[i]]) for i, x in enumerate(tokens)]
        for layer in made.blocks:
            tokens = block(layer, tokens)
        nothing = [torch.zeros_like(tokens[0])] * (L - n)
        interest = {"target": tokens[0], "mean": sum(tokens) / (n + 1), "concat": torch.cat([*tokens, *nothing])}[pool]
        rows.append(torch.cat([given.fields[b].flatten(), interest]))
    return torch.stack(rows).unsqueeze(1)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("pool", ["target", "mean", "concat"])
@pytest.mark.parametrize("positions", ["add", "concat", "none"])
def test_equations_written_out(pool: str, positions: str, blocks: int) -> None:
    made, given = bst(pool=pool, positions=positions, blocks=blocks), features()
    z = made(given)
    assert z.shape == (len(LENGTHS), 1, made.width)
    torch.testing.assert_close(z, written_out(made, given, pool, positions))


@pytest.mark.parametrize("pool", ["target", "mean", "concat"])
@pytest.mark.parametrize("width", [2, L + 3])
def test_positions_do_not_depend_on_the_padding(pool: str, width: int) -> None:
    made, given = bst(pool=pool), features([0, 2, 1], width)
    torch.testing.assert_close(made(given), written_out(made, given, pool, "add"))


def test_without_a_history_the_target_looks_at_itself() -> None:
    made, given = bst(), features([0, 0])
    layer = made.blocks[0]
    t = given.target + made.positions[0]
    values = t @ layer.qkv.weight[2 * D :].T + layer.qkv.bias[2 * D :]  # its weight is 1
    s = layer.norms[0](t + layer.out(values))
    torch.testing.assert_close(made(given)[:, 0, 2 * D :], layer.norms[1](s + layer.ffn(s)))


@pytest.mark.parametrize("pool", ["target", "mean"])
def test_only_positions_tell_the_order_of_items(pool: str) -> None:
    given = features([L] * 3)
    items, mask = given.past["click"]
    turned = Features(given.fields, given.lookup, given.target, {"click": (items.flip(1), mask)})
    with_order, without = bst(pool=pool), bst(pool=pool, positions="none")
    assert not torch.allclose(with_order(given), with_order(turned), rtol=1e-3)
    torch.testing.assert_close(without(given), without(turned))


def test_gradients_reach_the_padding_nowhere_and_every_item() -> None:
    made, given = bst(), features()
    items, mask = given.past["click"]
    items.requires_grad_()
    made(given).square().sum().backward()
    assert torch.equal(items.grad.abs().sum(-1) > 0, mask)


@pytest.mark.parametrize(("blocks", "positions", "more"), [(1, "add", 1632), (2, "add", 1632), (1, "none", 0)])
def test_parameters(blocks: int, positions: str, more: int) -> None:
    """4(D² + D) + 8D² + 5D + 4D for each block, and (max_len + 1) D positions."""
    fields = tuple(Field(f"f{i}", 9) for i in range(5))
    tenrec = Schema(fields, (Task("click"),), (History("click", "f1", 50), History("like", "f1", 20)), "click")
    made = part("bottom", "bst", blocks=blocks, positions=positions)(tenrec, 32)
    assert sum(p.numel() for p in made.parameters()) == blocks * 12_704 + more
    assert made.width == 6 * 32


def test_of_several_histories_the_main_one_is_read() -> None:
    assert BST(CHAIN, 8).histories == ("click",)
    assert BST(CHAIN, 8).slots == 4
    with pytest.raises(SeqmtlError, match=r"dataset\.main_history"):
        BST(Schema(CHAIN.fields, CHAIN.tasks, CHAIN.histories), 8)


def test_dropout_acts_in_training_only() -> None:
    made, given = bst(dropout=0.5), features()
    assert not torch.equal(made(given), made(given))
    torch.testing.assert_close(made.eval()(given), written_out(made, given, "target", "add"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "heads=3 does not divide the width 4"),
        ({"pool": "max"}, "pool=max is unknown; choose from target, mean, concat"),
        ({"positions": "sine"}, "positions=sine is unknown"),
        ({"blocks": 0}, "blocks=0 must be 1 or more"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        bst(**options)
