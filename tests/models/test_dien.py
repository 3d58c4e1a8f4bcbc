"""DIEN: its cell in the cases where it is known, its formulas written out with loops, and the auxiliary loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from augru_by_hand import augru, perturbed
from model_cases import part
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.dien import DIEN
from seqmtl.types import Features, Field, History, Schema, Task

D = 4


def schema(items: int = 30) -> Schema:
    return Schema((Field("user", 9), Field("item", items)), (Task("click"),), (History("seen", "item", 5),), "seen")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def dien(items: int = 30, **options: Any) -> DIEN:
    made = perturbed(DIEN(schema(items), D, **({"dims": [8, 5], "auxiliary_dims": [7, 3]} | options))).eval()
    assert isinstance(made, DIEN)
    return made


def features(lengths: Sequence[int], width: int | None = None, items: int = 30, seed: int = 0) -> Features:
    """Random items; what stands in the padding is drawn anew each time."""
    width = width or max(1, *lengths)
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(items, D, generator=g, dtype=torch.float64)
    e = torch.randn(len(lengths), D, generator=g, dtype=torch.float64)
    ids = torch.randint(items, (len(lengths), width), dtype=torch.int32)
    for b, n in enumerate(lengths):
        ids[b, :n] = torch.randint(items, (n,), generator=g)
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    past = {"seen": (torch.where(mask.unsqueeze(-1), table[ids.long()], 9 * torch.randn(len(lengths), width, D).double()), mask)}
    lookup = lambda name, ids: table[ids.long()]  # noqa: E731
    fields = torch.stack([torch.ones_like(e), e], 1)
    return Features(fields, lookup, target=e, past=past, past_ids={"seen": ids}, lookup_past=lookup)


def interest(bottom: DIEN, given: Features) -> Tensor:
    z: Tensor = bottom(given)
    assert z.shape == (len(given.fields), 1, bottom.width)
    torch.testing.assert_close(z[:, 0, : 2 * D], given.fields.flatten(1))
    return z[:, 0, 2 * D :]


# The bottom


def gru_states(gru: nn.GRU, x: Tensor) -> list[Tensor]:
    h, states = torch.zeros(D).double(), []
    for x_i in x:
        r_x, z_x, n_x = (gru.weight_ih_l0 @ x_i + gru.bias_ih_l0).chunk(3)
        r_h, z_h, n_h = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).chunk(3)
        z = (z_x + z_h).sigmoid()
        h = (1 - z) * (n_x + (r_x + r_h).sigmoid() * n_h).tanh() + z * h
        states.append(h)
    return states


def score(made: DIEN, e: Tensor, h: Tensor) -> Tensor:
    q = made.query[0].weight @ e + made.query[0].bias
    q = torch.where(q > 0, q, made.query[1].weight * q)
    s = torch.cat([q, h, q - h, q * h])
    s = (made.unit.first.weight @ s + made.unit.first.bias).sigmoid()
    for layer in made.unit.layers[:-1]:
        s = (layer.weight @ s + layer.bias).sigmoid()
    return (made.unit.layers[-1].weight @ s)[0]


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("extra_sum", [True, False])
def test_dien_written_out(form: str, extra_sum: bool) -> None:
    lengths = [3, 0, 1, 5, 3]
    made, given = dien(augru=form, extra_sum=extra_sum), features(lengths, width=7)
    expected = []
    for b, n in enumerate(lengths):
        x = given.past["seen"][0][b, :n]
        states = gru_states(made.gru, x)
        a = [score(made, given.target[b], h).exp() for h in states]
        h = torch.zeros(D).double()
        for state, weight in zip(states, a, strict=True):
            h = augru(made.augru, state, weight / sum(a), h)[1]
        expected.append(torch.cat([h, x.sum(0), given.target[b] * x.sum(0)]) if extra_sum else h)
    torch.testing.assert_close(interest(made, given), torch.stack(expected))


def test_a_single_item_in_closed_form() -> None:
    made, given = dien(), features([1])
    r, z, n = (made.gru.weight_ih_l0 @ given.past["seen"][0][0, 0] + made.gru.bias_ih_l0).chunk(3)
    b_r, b_z, b_n = made.gru.bias_hh_l0.chunk(3)
    h = (1 - (z + b_z).sigmoid()) * (n + (r + b_r).sigmoid() * b_n).tanh()
    u, _, c = made.augru.input(h).chunk(3)  # the attention of one item is 1, the state before it 0
    torch.testing.assert_close(interest(made, given)[0], u.sigmoid() * c.tanh())


def test_what_stands_after_the_end_changes_nothing() -> None:
    made, lengths = dien(auxiliary=1.0).train(), [3, 0, 1, 5]
    states, losses = [], []
    for width in (5, 5, 9):
        given = features(lengths, width)
        torch.manual_seed(1)  # the same negatives
        states.append(interest(made, given))
        losses.append(given.extras["loss_next_item"])
    for state, loss in zip(states[1:], losses[1:], strict=True):
        torch.testing.assert_close(state, states[0])
        torch.testing.assert_close(loss, losses[0])
    assert torch.equal(states[0][1], torch.zeros(D).double())


@pytest.mark.parametrize("extra_sum", [True, False])
def test_a_batch_without_any_item_is_finite(extra_sum: bool) -> None:
    made = dien(auxiliary=1.0, extra_sum=extra_sum).train()
    given = features([0, 0])
    assert torch.equal(interest(made, given), torch.zeros(2, made.width - 2 * D).double())
    assert given.extras["loss_next_item"].item() == 0


def test_second_derivatives_through_both_recurrent_parts() -> None:
    made = dien()
    weights = [made.gru.weight_hh_l0, made.augru.state.weight]
    first = torch.autograd.grad(interest(made, features([3, 2])).square().sum(), weights, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), weights)
    assert all(torch.isfinite(g).all() and g.any() for g in second)


def test_fast_weights_reach_the_recurrent_parts() -> None:
    # A fused GRU keeps its weights in a list of its own; a model called with others must use those.
    made, given = dien(), features([3, 2])
    moved = {name: p + 0.1 for name, p in made.named_parameters()}
    called = torch.func.functional_call(made, moved, (given,))
    for name, p in made.named_parameters():
        p.data = moved[name].detach()
    torch.testing.assert_close(called, made(given))


@pytest.mark.parametrize(("auxiliary", "extra_sum"), [(0.0, False), (1.0, True)])
def test_parameters_of_dien(auxiliary: float, extra_sum: bool) -> None:
    d = 32
    made = part("bottom", "dien", auxiliary=auxiliary, extra_sum=extra_sum)(schema(), d)
    gru, augru, query = 3 * (2 * d**2 + 2 * d), 3 * (2 * d**2 + d), d**2 + d + d
    attention = 4 * d * 80 + 80 + 80 * 40 + 40 + 40  # without the bias of the score, which a softmax takes out
    next_item = 2 * d * 100 + 100 + 100 * 50 + 50 + 51 if auxiliary else 0
    assert sum(p.numel() for p in made.parameters()) == gru + augru + query + attention + next_item
    assert made.width == 2 * d + (3 if extra_sum else 1) * d


# The auxiliary loss


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_auxiliary_loss_by_hand(weight: float) -> None:
    # Of two items the one that is not next is the only negative.
    lengths = [3, 0, 1, 5]
    made, given = dien(items=2, auxiliary=weight).train(), features(lengths, width=6, items=2)
    assert given.lookup_past is not None
    made(given)
    terms = []
    for b, n in enumerate(lengths):
        states = gru_states(made.gru, given.past["seen"][0][b, :n])
        for i in range(n - 1):
            true = given.past_ids["seen"][b, i + 1]
            yes, no = (made.next_item(torch.cat([states[i], given.lookup_past("seen", item)])).item() for item in (true, 1 - true))
            terms.append(math.log(1 + math.exp(-yes)) + math.log(1 + math.exp(no)))
    assert len(terms) == 6
    torch.testing.assert_close(given.extras["loss_next_item"].item(), weight * sum(terms) / 6)


def test_network_of_the_auxiliary_loss_is_sigmoids_below_one_score() -> None:
    made, x = dien(auxiliary=1.0), torch.randn(2 * D).double()
    first, second, last = made.next_item[::2]
    h = F.linear(F.linear(x, first.weight, first.bias).sigmoid(), second.weight, second.bias).sigmoid()
    torch.testing.assert_close(made.next_item(x), F.linear(h, last.weight, last.bias))
    assert last.out_features == 1


def test_negatives_are_all_other_items_evenly() -> None:
    made, given = dien(items=5, auxiliary=1.0).train(), features([5] * 400, items=5)
    drawn: list[Tensor] = []
    lookup = given.lookup_past
    assert lookup is not None
    given.lookup_past = lambda name, ids: (drawn.append(ids), lookup(name, ids))[1]  # type: ignore[func-returns-value]
    made(given)
    true, negative = given.past_ids["seen"][:, 1:].flatten().long(), drawn[0].flatten()
    assert len(negative) == 1600
    counts = torch.zeros(5, 5).index_put((true, negative), torch.ones(1600), accumulate=True)
    assert counts.diagonal().sum() == 0
    share = counts / counts.sum(1, keepdim=True) + torch.eye(5) / 4
    torch.testing.assert_close(share, torch.full((5, 5), 0.25), rtol=0, atol=0.08)  # about 320 draws for each: 3 standard errors


def test_auxiliary_loss_only_in_training_and_only_if_wanted() -> None:
    for auxiliary, training in ((1.0, False), (0.0, True)):
        given = features([3])
        dien(auxiliary=auxiliary).train(training)(given)
        assert "loss_next_item" not in given.extras
    assert dien().next_item is None


@pytest.mark.parametrize("lengths", [[1, 0, 1], [1]])
def test_without_a_next_item_the_auxiliary_loss_is_zero_and_trains_nothing(lengths: list[int]) -> None:
    made, given = dien(auxiliary=1.0).train(), features(lengths)
    made(given)
    loss = given.extras["loss_next_item"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in made.parameters())


@pytest.mark.parametrize(("items", "auxiliary"), [(1, 1.0), (30, -1.0)])
def test_an_auxiliary_loss_that_cannot_be_is_refused(items: int, auxiliary: float) -> None:
    with pytest.raises(SeqmtlError, match="auxiliary"):
        dien(items=items, auxiliary=auxiliary)
