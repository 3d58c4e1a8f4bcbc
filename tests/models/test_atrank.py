"""ATRank: its equations written out with loops, what order and behaviour tell, the buckets of time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, part
from torch import Tensor
from torch.nn.functional import layer_norm, one_hot

from seqmtl.errors import SeqmtlError
from seqmtl.models.atrank import ATRank, bucket
from seqmtl.types import Features, Field, History, Schema, Task

D, C = 3, 8
MAX = {"click": 6, "skip": 3, "like": 4}
FIELDS = (Field("item", 9), Field("user", 9))
SCHEMA = Schema(FIELDS, (Task("click"),), tuple(History(name, "item", n) for name, n in MAX.items()), "click")
LENGTHS = {"click": [0, 6, 2, 0, 1], "skip": [0, 3, 0, 1, 2], "like": [0, 4, 1, 0, 3]}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def atrank(**options: Any) -> ATRank:
    made = ATRank(SCHEMA, D, **({"hidden": C, "heads": 2, "behaviour_dim": 2} | options)).double()
    for parameter in made.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    return made


def features(lengths: dict[str, list[int]] = LENGTHS, more: int = 0) -> Features:
    rows = len(lengths["click"])
    fields, past = torch.randn(rows, 2, D).double(), {}
    for name, n in lengths.items():
        width = max(1, *n) + more
        past[name] = torch.randn(rows, width, D).double(), torch.arange(width) < torch.tensor(n).unsqueeze(1)
    return Features(fields, lambda field, ids: ids, target=fields[:, 0], past=past)


def block(made: Any, queries: list[Tensor], keys: list[Tensor]) -> list[Tensor]:
    """One block for the tokens of one row, head by head."""
    q, k, v = (
        [(made.qkv.weight[i * C : (i + 1) * C] @ x + made.qkv.bias[i * C : (i + 1) * C]).clamp(min=0) for x in xs]
        for i, xs in enumerate((queries, keys, keys))
    )
    size, out = C // made.heads, []
    for i, x in enumerate(queries):
        found = torch.zeros_like(x)
        for h in range(made.heads if keys else 0):
            some = slice(h * size, (h + 1) * size)
            e = [(q[i][some] @ k_j[some] / size**0.5).exp() for k_j in k]
            found[some] = sum(e_j / sum(e) * v_j[some] for e_j, v_j in zip(e, v, strict=True))
        s = layer_norm(x + found, [C], made.norms[0].weight, made.norms[0].bias)
        inner = (made.ffn[0].weight @ s + made.ffn[0].bias).clamp(min=0)
        f = s + made.ffn[2].weight @ inner + made.ffn[2].bias
        out.append(layer_norm(f, [C], made.norms[1].weight, made.norms[1].bias))
    return out


def written_out(made: ATRank, given: Features) -> Tensor:
    project = made.project
    rows = []
    for b in range(len(given.fields)):
        tokens = []
        for m, name in enumerate(made.histories):
            items, mask = given.past[name]
            n = int(mask[b].sum())
            for i in range(n):
                distance = n - i
                which = [at for at in range(1, 12) if 2 ** (at - 1) <= distance][-1]
                time = one_hot(torch.tensor(which), 12).double()[: made.buckets]
                tokens.append(project.weight @ torch.cat([items[b, i], made.behaviours[m], time]) + project.bias)
        nothing = torch.zeros(project.in_features - D).double()
        u = [project.weight @ torch.cat([given.target[b], nothing]) + project.bias]
        for layer in made.encoder:
            tokens = block(layer, tokens, tokens)
        for layer in made.decoder:
            u = block(layer, u, tokens)
        rows.append(torch.cat([given.fields[b].flatten(), u[0]]))
    return torch.stack(rows).unsqueeze(1)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("buckets", [0, 12])
def test_equations_written_out(blocks: int, buckets: int) -> None:
    made, given = atrank(blocks=blocks, buckets=buckets), features()
    z = made(given)
    assert z.shape == (5, 1, made.width)
    torch.testing.assert_close(z, written_out(made, given))


def test_the_bucket_does_not_depend_on_the_padding() -> None:
    made, given = atrank(), features(more=3)
    torch.testing.assert_close(made(given), written_out(made, given))


def test_buckets() -> None:
    distances = torch.tensor([1, 2, 3, 4, 7, 8, 15, 16, 511, 512, 1023, 1024, 2048, 100_000])
    assert bucket(distances, 12).argmax(1).tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 9, 10, 10, 11, 11, 11]
    assert bucket(distances, 4).argmax(1).tolist() == [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    powers = 2 ** torch.arange(24)
    assert torch.equal(bucket(powers, 30).argmax(1), torch.arange(24) + 1)
    assert torch.equal(bucket(powers[1:] - 1, 30).argmax(1), torch.arange(23) + 1)
    assert bucket(distances, 0).shape == (14, 0)


@pytest.mark.parametrize(("buckets", "order_counts"), [(12, True), (0, False)])
def test_only_time_tells_the_order_of_items(buckets: int, order_counts: bool) -> None:
    made, given = atrank(buckets=buckets), features({"click": [5, 5], "skip": [3, 3], "like": [2, 2]})
    turned = Features(given.fields, given.lookup, given.target, {k: (x.flip(1), mask) for k, (x, mask) in given.past.items()})
    assert torch.allclose(made(given), made(turned), rtol=1e-6) != order_counts


@pytest.mark.parametrize("same", [True, False])
def test_only_the_behaviour_tells_histories_apart(same: bool) -> None:
    """Without time and with equal behaviours it does not matter to which history an item belongs."""
    made, given = atrank(buckets=0), features({"click": [3, 3], "skip": [3, 3], "like": [0, 1]})
    if same:
        made.behaviours.data[:] = made.behaviours.data[:1]
    swapped = dict(given.past) | {"click": given.past["skip"], "skip": given.past["click"]}
    other = Features(given.fields, given.lookup, given.target, swapped)
    assert torch.allclose(made(given), made(other), rtol=1e-6) == same


def test_without_any_history_the_residual_path_of_the_target_is_left() -> None:
    made, given = atrank(), features({name: [0, 0] for name in MAX})
    u = given.target @ made.project.weight[:, :D].T + made.project.bias
    layer = made.decoder[0]
    s = layer.norms[0](u)
    z = made(given)
    torch.testing.assert_close(z[:, 0, 2 * D :], layer.norms[1](s + layer.ffn(s)))
    z.square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def test_gradients_reach_the_padding_nowhere_and_every_item() -> None:
    made, given = atrank(), features(more=1)
    for items, _ in given.past.values():
        items.requires_grad_()
    made(given).square().sum().backward()
    for items, mask in given.past.values():
        assert torch.equal(items.grad.abs().sum(-1) > 0, mask)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, 34_816), ({"behaviour_dim": 8, "buckets": 0}, 34_816 - 24 * 64 - 12 * 64 - 5 * 24), ({"blocks": 2}, 64_544)],
)
def test_parameters(options: dict[str, int], wanted: int) -> None:
    """(D + D_b + 12 + 1) C + M D_b, and 3(C² + C) + C²/4 + C/4 + C²/4 + C + 4C for each of the blocks."""
    fields = tuple(Field(f"f{i}", 9) for i in range(5))
    tenrec = Schema(fields, (Task("click"),), tuple(History(f"h{m}", "f1", 50) for m in range(5)), "h0")
    made = part("bottom", "atrank", **options)(tenrec, 32)
    assert sum(p.numel() for p in made.parameters()) == wanted
    assert made.width == 5 * 32 + 64


def test_all_histories_are_read() -> None:
    assert ATRank(CHAIN, 4).histories == ("click", "skip", "like")
    with pytest.raises(SeqmtlError, match="ATRank reads histories"):
        ATRank(Schema(CHAIN.fields, CHAIN.tasks), 4)


def test_dropout_acts_in_training_only() -> None:
    made, given = atrank(dropout=0.5), features()
    assert not torch.equal(made(given), made(given))
    torch.testing.assert_close(made.eval()(given), written_out(made, given))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": 6, "heads": 2}, "hidden=6 must be a multiple of 4 and of model.bottom.heads=2"),
        ({"heads": 3}, "heads=3"),
        ({"buckets": -1}, "buckets=-1 must be 0 or more"),
        ({"blocks": 0}, "blocks=0 must be 1 or more"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        atrank(**options)
