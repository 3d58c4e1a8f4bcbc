"""DIEN's recurrent part: the order of its steps, and its cell in the cases where it is known and by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from augru_by_hand import augru, perturbed
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.augru import AUGRU, Steps
from seqmtl.nn.ragged import Ragged

D = 4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def ragged(lengths: Sequence[int]) -> Ragged:
    return Ragged.of(torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1))


def run(cell: AUGRU, of: Ragged, x: Tensor, a: Tensor) -> Tensor:
    """The cell's last states: x (N,D), a (N,) in the order of the rows → (R,D)."""
    steps = Steps(of)
    state: Tensor = cell(steps.pack(x), steps.pack(a), steps)
    return state


def gru_like(cell: AUGRU, sign: int) -> nn.GRU:
    """torch's GRU, whose gate z keeps the state: σ(-s) = 1 - σ(s) makes it the paper's u."""
    gru = nn.GRU(D, D).double()
    flip = torch.cat([sign * torch.ones(D), torch.ones(2 * D)])
    for theirs, ours in (
        (gru.weight_ih_l0, cell.input.weight),
        (gru.weight_hh_l0, cell.state.weight),
        (gru.bias_ih_l0, cell.input.bias),
    ):
        u, r, c = (flip.view(-1, *[1] * (ours.ndim - 1)) * ours).detach().chunk(3)
        theirs.data = torch.cat([r, u, c])
    nn.init.zeros_(gru.bias_hh_l0)
    return gru


# The order of the steps


@pytest.mark.parametrize("lengths", [[1], [2, 2, 2], [1, 3, 0, 2, 3, 1], [0, 5]])
def test_items_in_the_order_of_the_steps(lengths: list[int]) -> None:
    of = ragged(lengths)
    steps, n = Steps(of), len(of)
    number = torch.arange(n)
    assert torch.equal(steps.unpack(steps.pack(number)), number)
    position = steps.pack(of.position)
    assert torch.equal(position, position.sort().values)
    assert steps.sizes.tolist() == [sum(length > i for length in lengths) for i in range(max(lengths))]
    row, longest_first = steps.pack(of.row).split(steps.sizes.tolist()), steps.pack(of.row)[: len(of.rows)]
    for rows in row:
        assert torch.equal(rows, longest_first[: len(rows)])
    assert torch.equal(steps.to_rows(longest_first), torch.arange(len(of.rows)))


# The cell


def step(cell: AUGRU, a: float, x: Tensor, h: Tensor) -> Tensor:
    stepped: Tensor = cell.step(cell.input(x), torch.full((len(x), 1), a, dtype=torch.float64), h)
    return stepped


def test_papers_cell_keeps_the_state_without_attention() -> None:
    cell, x, h = perturbed(AUGRU(D)), torch.randn(3, D).double(), torch.randn(3, D).double()
    assert torch.equal(step(cell, 0.0, x, h), h)
    assert torch.equal(run(cell, ragged([3]), x, torch.zeros(3).double()), torch.zeros(1, D).double())


@pytest.mark.parametrize(("form", "a", "sign"), [("paper", 1.0, -1), ("official", 0.0, 1)])
def test_an_end_of_the_attention_is_a_plain_gru(form: str, a: float, sign: int) -> None:
    cell, of = perturbed(AUGRU(D, form)), ragged([4])
    x, h = torch.randn(4, D).double(), torch.randn(4, D).double()
    gru = gru_like(cell, sign)
    torch.testing.assert_close(step(cell, a, x, h), gru(x.unsqueeze(0), h.unsqueeze(0))[1][0])
    torch.testing.assert_close(run(cell, of, x, torch.full((4,), a).double()), gru(x.unsqueeze(1))[1][0])


def test_official_cell_takes_the_candidate_at_full_attention() -> None:
    cell, x, h = perturbed(AUGRU(D, "official")), torch.randn(3, D).double(), torch.randn(3, D).double()
    torch.testing.assert_close(step(cell, 1.0, x, h), augru(cell, x, torch.ones(3), h)[2])


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("lengths", [[3], [1, 4, 2, 4], [2, 2], [5, 0, 1]])
def test_both_forms_by_hand(form: str, lengths: list[int]) -> None:
    cell, of = perturbed(AUGRU(D, form)), ragged(lengths)
    x, a = torch.randn(len(of), D).double(), torch.rand(len(of)).double()
    expected = []
    for r in range(len(of.rows)):
        h = torch.zeros(D).double()
        for i in (of.row == r).nonzero().flatten():
            h = augru(cell, x[i], a[i], h)[1]
        expected.append(h)
    torch.testing.assert_close(run(cell, of, x, a), torch.stack(expected))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(SeqmtlError, match="paper, official"):
        AUGRU(D, "gru")
