"""MMoE, Shared-Bottom, Single-Task and what joins the parts: limits in which one is another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from model_cases import CHAIN, Compose, make_batch, make_model
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.flat import Flat
from seqmtl.models.linear import Linear
from seqmtl.models.mmoe import MMoE
from seqmtl.models.mtl import MTLModel
from seqmtl.models.shared_bottom import SharedBottom
from seqmtl.models.single_task import SingleTask
from seqmtl.models.towers import Towers
from seqmtl.types import Batch, Features, Field, History, Output, Schema, Task

SCHEMA = Schema((Field("a", 7), Field("b", 5)), (Task("x"), Task("y"), Task("z")))
NOTHING = Features(torch.zeros(1, 1, 1), lambda field, ids: ids)
Z = torch.randn(9, 1, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def mmoe(**options: Any) -> MMoE:
    return MMoE(SCHEMA, 3, 6, **({"experts": 3, "dims": [8, 4], "tower_dims": [5]} | options))


def copied(source: nn.Module, target: nn.Module, pairs: Mapping[str, str]) -> None:
    for a, b in pairs.items():
        target.get_submodule(b).load_state_dict(source.get_submodule(a).state_dict())


def test_one_expert_is_shared_bottom() -> None:
    mixture, shared = mmoe(experts=1), SharedBottom(SCHEMA, 3, 6, dims=[8, 4], tower_dims=[5])
    copied(mixture, shared, {"experts": "shared", "towers": "towers"})
    torch.testing.assert_close(mixture(Z, NOTHING), shared(Z, NOTHING))


@pytest.mark.parametrize("expert", [0, 2])
def test_an_open_gate_is_shared_bottom_with_that_expert(expert: int) -> None:
    mixture, shared = mmoe(), SharedBottom(SCHEMA, 3, 6, dims=[8, 4], tower_dims=[5])
    mixture.gates.bias.data[:, expert] = 1e4
    copied(mixture, shared, {"towers": "towers"})
    shared.shared.load_state_dict({k: v[expert : expert + 1] for k, v in mixture.experts.state_dict().items()})
    torch.testing.assert_close(mixture(Z, NOTHING), shared(Z, NOTHING))


def test_gates_sum_to_one() -> None:
    """Equal experts: whatever the gates say, the mixture is that expert."""
    mixture = mmoe(tower_dims=[])
    for parameter in mixture.experts.parameters():
        parameter.data[:] = parameter.data[:1]
    one = mixture.experts(Z)[:, 0]
    for task in mixture(Z, NOTHING).unbind(1):
        torch.testing.assert_close(task, one)


def test_each_task_has_a_gate_and_tied_gates_mix_alike() -> None:
    mixture = mmoe(tower_dims=[])
    h = mixture(Z, NOTHING)
    assert not torch.allclose(h[:, 0], h[:, 1])
    for parameter in mixture.gates.parameters():
        parameter.data[:] = parameter.data[:1]
    h = mixture(Z, NOTHING)
    torch.testing.assert_close(h[:, 0], h[:, 1])


def test_the_order_of_experts_does_not_count() -> None:
    mixture, other = mmoe(), mmoe()
    other.load_state_dict(mixture.state_dict())
    turn = torch.tensor([2, 0, 1])
    for parameter in other.experts.parameters():
        parameter.data = parameter.data[turn]
    for parameter in other.gates.parameters():
        parameter.data = parameter.data[:, turn]
    torch.testing.assert_close(mixture(Z, NOTHING), other(Z, NOTHING))


def test_gates_without_bias() -> None:
    assert mmoe(gate_bias=False).gates.bias is None
    assert mmoe().gates.bias is not None


def ids(rows: int = 6) -> Batch:
    g = torch.Generator().manual_seed(1)
    return Batch(torch.stack([torch.randint(0, n, (rows,), generator=g) for n in (7, 5)], 1), torch.zeros(rows, 3))


def test_single_task_is_one_shared_bottom_for_each_task() -> None:
    towers = partial(Towers, dims=[8, 4], dropout=0.0)
    single = SingleTask(SCHEMA, 3, Flat, towers, Linear)
    for t, task in enumerate(SCHEMA.task_names):
        shared = MTLModel(SCHEMA.keep([task]), 3, Flat, partial(SharedBottom, dims=[8, 4], tower_dims=[]), Linear)
        for ours, theirs in zip(shared.parameters(), single.models[t].parameters(), strict=True):
            ours.data = theirs.data
        torch.testing.assert_close(single(ids()).logits[:, t], shared(ids()).logits[:, 0])


def test_single_task_shares_nothing() -> None:
    single = SingleTask(SCHEMA, 3, Flat, partial(Towers, dims=[8], dropout=0.0), Linear)
    assert [m.schema.task_names for m in single.models] == [("x",), ("y",), ("z",)]
    logits = single(ids()).logits
    for t in range(3):
        single.zero_grad()
        logits[:, t].square().sum().backward(retain_graph=True)
        for u, model in enumerate(single.models):
            assert any(p.grad is not None and p.grad.any() for p in model.parameters()) is (t == u)


class Shouting(Flat):
    """A bottom that shows and asks for things."""

    provides: ClassVar[frozenset[str]] = frozenset()

    def forward(self, features: Features) -> Tensor:
        mean = features.fields.mean()
        features.extras |= {"loss_size": mean, "level": mean, "auxiliary": features.fields.mean((1, 2)).unsqueeze(1)}
        return super().forward(features)


def test_what_a_part_shows_ends_in_the_output() -> None:
    model = MTLModel(SCHEMA, 3, Shouting, partial(Towers, dims=[8], dropout=0.0), Linear)
    extras = model(ids()).extras
    assert set(extras) == {"loss_size", "level", "auxiliary"}
    single = SingleTask(SCHEMA, 3, Shouting, partial(Towers, dims=[8], dropout=0.0), Linear)
    extras, parts = single(ids()).extras, [m(ids()).extras for m in single.models]
    torch.testing.assert_close(extras["loss_size"], sum(p["loss_size"] for p in parts))
    torch.testing.assert_close(extras["level"], sum(p["level"] for p in parts) / 3)
    torch.testing.assert_close(extras["auxiliary"], torch.cat([p["auxiliary"] for p in parts], 1))


def test_parts_are_finished_in_order_with_the_widths_before_them() -> None:
    seen: dict[str, Any] = {}

    class Head(Linear):
        def __init__(self, schema: Schema, dim: int, width: int, z_width: int) -> None:
            seen.update(dim=dim, width=width, z_width=z_width)
            super().__init__(schema, dim, width, z_width)

        def forward(self, h: Tensor, z: Tensor, features: Features) -> Output:
            seen.update(z=tuple(z.shape), h=tuple(h.shape))
            return super().forward(h, z, features)

    MTLModel(SCHEMA, 3, Flat, partial(Towers, dims=[8], dropout=0.0), Head)(ids())
    assert seen == {"dim": 3, "width": 8, "z_width": 6, "z": (6, 1, 6), "h": (6, 3, 8)}


@pytest.mark.parametrize("own", [False, True])
def test_the_histories_that_a_bottom_reads_are_embedded_and_masked_by_length(own: bool) -> None:
    class ReadsLiked(Flat):
        histories = ("liked",)

    histories = (History("seen", "a", 4), History("liked", "b", 4, own_table=own))
    schema = replace(SCHEMA, histories=histories, main_history="liked")
    model = MTLModel(schema, 3, ReadsLiked, partial(Towers, dims=[8], dropout=0.0), Linear)
    assert model.histories == ("liked",)
    batch = ids(2)
    batch.past = {"liked": torch.tensor([[1, 0, 4, 0], [0, 0, 0, 0]], dtype=torch.int32)}
    batch.past_len = {"liked": torch.tensor([3, 0])}
    features = model.embed(batch)
    torch.testing.assert_close(features.target, features.fields[:, 1])
    items, mask = features.past["liked"]
    # Id 0 is an item that was filtered, not padding.
    assert mask.tolist() == [[True, True, True, False], [False] * 4]
    table = model.own_embedding.weight if own else model.embedding.weight[7:]
    torch.testing.assert_close(items, table[batch.past["liked"]])
    assert set(features.past) == {"liked"}
    torch.testing.assert_close(features.lookup("b", batch.fields[:, 1]), features.fields[:, 1])


def test_a_bottom_that_does_not_say_reads_all_histories_and_flat_reads_none() -> None:
    class Silent(nn.Module):
        width = 6

        def __init__(self, schema: Schema, dim: int) -> None:
            super().__init__()

    schema = replace(SCHEMA, histories=(History("seen", "a", 4), History("liked", "b", 4, own_table=True)))
    towers = partial(Towers, dims=[8], dropout=0.0)
    assert MTLModel(schema, 3, Silent, towers, Linear).histories == ("seen", "liked")
    flat = MTLModel(schema, 3, Flat, towers, Linear)
    assert flat.histories == ()
    assert flat.own_embedding is None
    assert flat.embed(ids(2)).past == {}, "a batch without histories will do"


def test_a_multi_valued_field_is_the_mean_of_its_ids() -> None:
    schema = replace(SCHEMA, fields=(*SCHEMA.fields, Field("c", 9, bag=3)))
    batch = ids(3)
    batch.past = {"c": torch.tensor([[8, 0, 8], [5, 1, 2], [4, 4, 4]], dtype=torch.int32)}
    batch.past_len = {"c": torch.tensor([2, 1, 0])}
    model = MTLModel(schema, 3, Flat, partial(Towers, dims=[8], dropout=0.0), Linear)
    fields = model.embed(batch).fields
    table = model.embedding.weight[12:]
    expected = torch.stack([(table[8] + table[0]) / 2, table[5], torch.zeros(3)])
    torch.testing.assert_close(fields[:, 2], expected)
    single = MTLModel(SCHEMA, 3, Flat, partial(Towers, dims=[8], dropout=0.0), Linear)
    single.embedding.weight.data = model.embedding.weight.data[:12]
    torch.testing.assert_close(fields[:, :2], single.embed(ids(3)).fields)
    assert model.bottom.width == 9
    assert model(batch).logits.shape == (3, 3)


def test_bags_stand_last_and_names_differ() -> None:
    with pytest.raises(SeqmtlError, match="multi-valued fields must stand after the others"):
        Schema((Field("c", 9, bag=3), Field("a", 7)), SCHEMA.tasks)
    with pytest.raises(SeqmtlError, match="history and bag names must differ"):
        Schema((Field("a", 7), Field("c", 9, bag=3)), SCHEMA.tasks, (History("c", "a", 2),))


def test_a_history_that_is_read_must_be_there_and_its_field_too() -> None:
    class ReadsSeen(Flat):
        histories = ("seen",)

    schema = replace(SCHEMA, histories=(History("seen", "item", 3),))
    towers = partial(Towers, dims=[8], dropout=0.0)
    with pytest.raises(SeqmtlError, match="history 'seen' is made of field 'item', which is no field of the data"):
        MTLModel(schema, 3, ReadsSeen, towers, Linear)
    with pytest.raises(SeqmtlError, match=r"reads history 'seen', which dataset\.histories does not name; it names none"):
        MTLModel(SCHEMA, 3, ReadsSeen, towers, Linear)
    MTLModel(schema, 3, Flat, towers, Linear)  # reads none


def test_logits_under_autocast_do_not_tie(compose: Compose) -> None:
    """bfloat16 has 256 values between 1 and 2; the last layer in float32 keeps near rows apart."""
    model, batch = make_model(compose, CHAIN, "model=shared_bottom"), make_batch(CHAIN, 256)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.head.linear.bias.data.fill_(-8.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch).logits
    assert len(logits[:, 0].unique()) > 2 * len(logits[:, 0].bfloat16().unique())
