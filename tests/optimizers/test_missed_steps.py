"""Steps without a gradient, all at once, against torch.optim.Adam that takes them one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.optimizers.missed_steps import MissedSteps, gauss

K = (1, 2, 3, 4, 5, 7, 10, 30, 81, 160, 500, 2000)
BETAS = (0.9, 0.999)


def moments(dtype: torch.dtype, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """√v from a thousandth of eps to 1, with the momentum that it may go with."""
    root = eps * torch.logspace(-3, 8, 45, dtype=torch.float64)
    return (root * torch.linspace(-3, 3, 45, dtype=torch.float64)).to(dtype), root.square().to(dtype)


def one_by_one(m: Tensor, v: Tensor, since: int, steps: int, betas: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """How far torch's Adam moves numbers from these moments on, and its moments then."""
    weight = torch.nn.Parameter(torch.zeros_like(m))
    adam = torch.optim.Adam([weight], lr=1e-3, betas=betas)
    weight.grad = torch.zeros_like(m)
    adam.state[weight] = {"step": torch.tensor(float(since)), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    for _ in range(steps):
        adam.step()
    return weight.detach(), adam.state[weight]["exp_avg"], adam.state[weight]["exp_avg_sq"]


def at_once(m: Tensor, v: Tensor, since: int, steps: int, betas: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    weight, m, v = (x.clone().unsqueeze(1) for x in (torch.zeros_like(m), m, v))
    last = torch.full((len(m),), since, dtype=torch.int32)
    MissedSteps(betas, 1e-8)(weight, m, v, last, last[0] + steps, 1e-3, young=True)
    return weight[:, 0], m[:, 0], v[:, 0]


def differ(a: Tensor, b: Tensor) -> float:
    """The largest relative difference; numbers that float32 hardly holds are left out."""
    b = b.double()
    holds = b.abs() > 1e-35
    return float((a.double() / b - 1)[holds].abs().max()) if holds.any() else 0.0


@pytest.mark.parametrize("since", [1, 20, 80, 81, 90, 1000, 50_000])
def test_in_float64_any_number_of_steps(since: int) -> None:
    for k in K if since < 1000 else (1, 6, 160, 2000):
        found, expected = (f(*moments(torch.float64), since, k, BETAS) for f in (at_once, one_by_one))
        assert differ(found[0], expected[0]) < 1e-7
        assert differ(found[1], expected[1]) < 1e-11
        assert differ(found[2], expected[2]) < 1e-11


@pytest.mark.parametrize("since", [1, 79, 3000])
def test_in_float32_any_number_of_steps(since: int) -> None:
    """torch rounds at each step, and ends farther from what float64 gives than this does."""
    m, v = moments(torch.float32)
    for k in K:
        found, expected = (f(m, v, since, k, BETAS) for f in (at_once, one_by_one))
        assert differ(found[0], one_by_one(m.double(), v.double(), since, k, BETAS)[0]) < 1e-6
        assert differ(found[0], expected[0]) < 2e-6
        assert differ(found[2], expected[2]) < 1e-5


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.999), (0.95, 0.999), (0.8, 0.9), (0.9, 0.9999), (0.01, 0.999)])
def test_other_betas(betas: tuple[float, float]) -> None:
    for since in (1, 60, 2000):
        for k in (1, 5, 40, 300):
            found, expected = (f(*moments(torch.float64), since, k, betas)[0] for f in (at_once, one_by_one))
            assert differ(found, expected) < 1e-6


def test_rows_of_different_ages_in_one_call() -> None:
    m, v = moments(torch.float64)
    ages = torch.randint(1, 400, (len(m),), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    weight, moved_m, moved_v = torch.zeros(len(m), 1, dtype=torch.float64), m.clone()[:, None], v.clone()[:, None]
    MissedSteps(BETAS, 1e-8)(weight, moved_m, moved_v, ages, torch.tensor(400, dtype=torch.int32), 1e-3, young=True)
    for i, age in enumerate(ages.tolist()):
        expected = one_by_one(m[i : i + 1], v[i : i + 1], age, 400 - age, BETAS)
        for found, value in zip((weight, moved_m, moved_v), expected, strict=True):
            assert differ(found[i], value) < 1e-7


def test_a_row_that_missed_nothing_keeps_its_bits() -> None:
    m, v = moments(torch.float32)
    weight, a, b = at_once(m, v, 500, 0, BETAS)
    assert weight.abs().max() == 0
    assert torch.equal(a, m)
    assert torch.equal(b, v)


def test_the_rules_are_exact_for_polynomials() -> None:
    rho, points = 0.9, 4
    x, c = gauss(rho, 50, points)
    for k in range(51):
        for degree in range(2 * points):
            exact = sum(rho**j * (j / 10) ** degree for j in range(1, k + 1))
            assert float((c[k] * (x[k] / 10) ** degree).sum()) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(
    ("betas", "eps", "words"),
    [
        ((0.9, 0.8), 1e-8, "does not die out soon"),
        ((0.999, 0.999), 1e-8, "must be well below"),
        ((0.9, 0.999), 0.0, "eps above 0"),
        ((0.0, 0.999), 1e-8, "betas between 0 and 1"),
        ((0.5, 0.251), 1e-8, "optimizer=adam"),
    ],
)
def test_what_cannot_be_summed_is_refused(betas: tuple[float, float], eps: float, words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        MissedSteps(betas, eps)


def test_what_is_left_out_is_below_what_is_promised() -> None:
    """The terms beyond the longest rule, at the least favourable √v."""
    terms = len(MissedSteps(BETAS, 1e-8).x) - 1
    rho = BETAS[0] / math.sqrt(BETAS[1])
    assert rho**terms / (1 - rho) < 1e-7
