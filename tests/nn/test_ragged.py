"""Sequences without padding: everything equals what is done to each row alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqmtl.nn.activation_unit import ActivationUnit
from seqmtl.nn.ragged import Ragged

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def mask_of(lengths: list[int], width: int | None = None) -> Tensor:
    return torch.arange(width or max(1, *lengths, 1)) < torch.tensor(lengths).unsqueeze(1)


def items(lengths: list[int], dim: int = 4) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, dim, generator=g, dtype=torch.float64) for n in lengths if n]


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(0, 3))
def test_taken_padded_and_spread(lengths: list[int], extra: int) -> None:
    mask = mask_of(lengths, max(1, *lengths, 1) + extra)
    ragged = Ragged.of(mask)
    padded = torch.randn(*mask.shape, 4, dtype=torch.float64)
    taken = ragged.take(padded)
    assert len(ragged) == len(taken) == sum(lengths)
    assert torch.equal(taken, padded[mask])
    back = ragged.spread(ragged.pad(taken))  # (B,longest,4)
    wanted = padded * mask.unsqueeze(-1)
    assert torch.equal(back, wanted[:, : back.shape[1]])
    assert ragged.rows.tolist() == [i for i, n in enumerate(lengths) if n]
    assert ragged.position.tolist() == [i for n in lengths for i in range(n)]


@settings(deadline=None, max_examples=40)
@given(LENGTHS)
def test_sums_and_softmax_are_those_of_each_row(lengths: list[int]) -> None:
    ragged, each = Ragged.of(mask_of(lengths)), items(lengths)
    x = torch.cat(each) if each else torch.zeros(0, 4, dtype=torch.float64)
    for i, row in enumerate(each):
        torch.testing.assert_close(ragged.sum(x)[i], row.sum(0))
        torch.testing.assert_close(ragged.mean(x)[i], row.mean(0))
    torch.testing.assert_close(ragged.softmax(x), torch.cat([row.softmax(0) for row in each]) if each else x)


def reference(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of one row: q (Q,D), k and v (L,D)."""
    out = []
    for q_h, k_h, v_h in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        out.append((q_h @ k_h.T / q_h.shape[1] ** 0.5).softmax(-1) @ v_h)
    return torch.cat(out, 1)


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.sampled_from([1, 2, 4]))
def test_attention_is_that_of_each_row(lengths: list[int], heads: int) -> None:
    ragged, each = Ragged.of(mask_of(lengths)), items(lengths)
    x = torch.cat(each).requires_grad_() if each else torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    q, k, v = x * 2, x.flip(1), x + 1
    own = torch.randn(len(each), 4, dtype=torch.float64)
    everyone, one = ragged.self_attention(q, k, v, heads), ragged.attention(own, k, v, heads)
    parts = [t.split([len(row) for row in each]) for t in (q, k, v)]
    for i in range(len(each)):
        mine = [p[i] for p in parts]
        torch.testing.assert_close(everyone.split([len(row) for row in each])[i], reference(*mine, heads))
        torch.testing.assert_close(one[i : i + 1], reference(own[i : i + 1], *mine[1:], heads))
    (everyone.sum() + one.sum()).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("longest", [1, 4, 5, 9, 33])
def test_rows_of_all_lengths_meet_their_own_items_alone(longest: int) -> None:
    """More rows than a bucket holds, lengths on both sides of its limits, in an order that is not theirs."""
    lengths = [(7 * i) % (longest + 1) for i in range(600)]
    ragged, each = Ragged.of(mask_of(lengths)), items(lengths)
    x = torch.cat(each).requires_grad_()
    out = ragged.self_attention(x * 2, x.flip(1), x + 1, 2)
    wanted = torch.cat([reference(row * 2, row.flip(1), row + 1, 2) for row in x.split([len(row) for row in each])])
    torch.testing.assert_close(out, wanted)
    towards = torch.linspace(-1, 1, 4, dtype=torch.float64)
    for mine, reference_s in zip(*(torch.autograd.grad((o.cos() @ towards).sum(), x) for o in (out, wanted)), strict=True):
        torch.testing.assert_close(mine, reference_s)


@settings(deadline=None, max_examples=40)
@given(LENGTHS)
def test_glimpses_are_weighted_means_of_the_items(lengths: list[int]) -> None:
    ragged, each = Ragged.of(mask_of(lengths)), items(lengths)
    x = torch.cat(each) if each else torch.zeros(0, 4, dtype=torch.float64)
    q = torch.randn(len(each), 3, 4, dtype=torch.float64)
    found = ragged.glimpse(q, x)
    assert found.shape == q.shape
    for i, row in enumerate(each):
        torch.testing.assert_close(found[i], (q[i] @ row.T).softmax(-1) @ row)


def test_without_any_item_all_have_a_gradient_of_0() -> None:
    ragged = Ragged.of(mask_of([0, 0]))
    q, k, v, asked = (torch.zeros(0, 4, requires_grad=True) for _ in range(4))
    everyone, one = ragged.self_attention(q, k, v, 2), ragged.glimpse(asked.unsqueeze(1), v)
    assert (everyone.shape, one.shape) == ((0, 4), (0, 1, 4))
    (everyone.sum() + one.sum() + ragged.attention(asked, k, v, 2).sum()).backward()
    assert all(x.grad is not None for x in (q, k, v, asked))


def test_attention_has_second_derivatives() -> None:
    ragged = Ragged.of(mask_of([2, 0, 5]))
    x = torch.cat(items([2, 5])).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ragged.self_attention(x, x.flip(1), x + 1, 2), x)
    assert torch.autograd.gradgradcheck(lambda x: ragged.glimpse(x[:2].unsqueeze(1), x), x)
    assert torch.autograd.gradgradcheck(ragged.softmax, x)


def test_a_large_score_does_not_overflow() -> None:
    ragged = Ragged.of(mask_of([2, 1]))
    assert ragged.softmax(torch.tensor([1e4, 1e4, -1e4])).tolist() == [0.5, 0.5, 1.0]


def test_parts_stand_one_after_the_other() -> None:
    one, two = Ragged.of(mask_of([2, 0, 1])), Ragged.of(mask_of([0, 3]))
    both = Ragged.cat([one, two])
    assert (both.size, both.rows.tolist(), both.lengths.tolist()) == (5, [0, 2, 4], [2, 1, 3])
    x = torch.arange(6.0)
    assert both.spread(both.sum(x)).tolist() == [1.0, 0.0, 2.0, 0.0, 12.0]


@pytest.mark.parametrize("activation", ["sigmoid", "dice", "prelu", "relu"])
def test_the_activation_unit_is_an_mlp_of_query_item_difference_and_product(activation: str) -> None:
    torch.manual_seed(0)
    unit = ActivationUnit(3, [8, 5], activation).double().eval()
    assert sum(p.numel() for layer in (unit.first, *unit.layers) for p in layer.parameters()) == 12 * 8 + 8 + 8 * 5 + 5 + 6
    q, x, row = torch.randn(4, 3).double(), torch.randn(7, 3).double(), torch.tensor([0, 0, 1, 3, 3, 3, 3])
    s = torch.cat([q[row], x, q[row] - x, q[row] * x], 1)
    for layer, activate in zip([unit.first, *unit.layers], [*unit.activations, torch.nn.Identity()], strict=True):
        s = activate(layer(s))
    torch.testing.assert_close(unit(q, x, row), s.squeeze(1))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_dice_trains_on_any_number_of_items(n: int) -> None:
    unit = ActivationUnit(3, [8], "dice")
    q, x = torch.randn(1, 3), torch.randn(n, 3)
    scores = unit(q, x, torch.zeros(n, dtype=torch.int64))
    scores.sum().backward()
    assert scores.shape == (n,)
    assert all(torch.isfinite(p.grad).all() for p in unit.parameters() if p.grad is not None)
