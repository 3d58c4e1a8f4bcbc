"""What each balancer makes of a Gramian, by hand."""

from __future__ import annotations

import pytest
import torch
from balancer_cases import (
    BALANCED,
    gram,
    step_of,
    weights,
)

from seqmtl.steps.nash_mtl import NashMTLWeighting


def test_pcgrad_takes_away_what_points_against_another_task() -> None:
    # g1 = (2,0), g2 = (-1,1): g1·g2 = -2. g1 - (-2/2) g2 = g1 + g2; g2 - (-2/4) g1 = g2 + g1/2.
    assert weights(step_of("pcgrad"), gram((2, 0), (-1, 1))) == pytest.approx([1.5, 2.0])
    assert weights(step_of("pcgrad"), gram((2, 0), (1, 1))) == [1.0, 1.0]
    assert weights(step_of("pcgrad"), gram((2, 0, 1), (1, 1, 0), (0, 0, 3))) == [1.0, 1.0, 1.0]


def test_mgda_is_the_shortest_mean() -> None:
    # w1 = g2·(g2 - g1) / |g1 - g2|² = (2 + 2) / 10, as long as it is between 0 and 1
    assert weights(step_of("mgda"), gram((2, 0), (-1, 1))) == pytest.approx([0.4, 0.6], abs=2e-3)
    assert weights(step_of("mgda"), gram((1, 0), (3, 0.1))) == pytest.approx([1.0, 0.0], abs=2e-3)


def test_imtl_g_has_equal_projections() -> None:
    j = torch.tensor([[2.0, 0.0, 0.3], [-1.0, 1.0, 0.0], [0.2, 0.1, 5.0]], dtype=torch.float64)
    w = step_of("imtl_g").weights(j @ j.T)
    projections = (j / j.norm(dim=1, keepdim=True)) @ (w @ j)
    torch.testing.assert_close(projections, projections[0].expand(3))
    assert w.sum() == pytest.approx(1.0)


def test_aligned_mtl_makes_the_gradients_orthogonal_and_as_long_as_the_shortest() -> None:
    # Orthogonal ones: each is cut to the length of the shortest, and the mean is taken.
    assert weights(step_of("aligned_mtl"), gram((4, 0), (0, 2))) == pytest.approx([0.25, 0.5])
    j = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    w = step_of("aligned_mtl").weights(j @ j.T)
    u, s, vt = torch.linalg.svd(j, full_matrices=False)
    torch.testing.assert_close(w @ j, torch.full((2,), 0.5, dtype=torch.float64) @ (u @ vt * s.min()))


def test_cagrad_stays_near_the_mean_and_serves_the_worst_task() -> None:
    j = torch.tensor([[3.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    mean = j.mean(0)
    assert weights(step_of("cagrad", "weighting.c=0"), j @ j.T) == pytest.approx([0.5, 0.5])
    d = step_of("cagrad").weights(j @ j.T) @ j
    assert (d - mean).norm() == pytest.approx(0.4 * mean.norm().item(), rel=1e-3)
    around = torch.linspace(0, 2 * torch.pi, 2000, dtype=torch.float64)
    others = mean + 0.4 * mean.norm() * torch.stack([around.cos(), around.sin()], 1)
    assert (j @ d).min() >= (others @ j.T).min(1).values.max() - 1e-3


def test_upgrad_goes_against_no_task() -> None:
    j = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -3.0, 1.0]], dtype=torch.float64)
    assert ((step_of("upgrad").weights(j @ j.T) @ j) @ j.T).min() > -2e-3
    assert weights(step_of("upgrad"), gram((2, 0), (0, 3))) == pytest.approx([0.5, 0.5], abs=1e-4)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_nash_mtl_solves_its_equation(n: int) -> None:
    j = torch.randn(n, 20, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    j *= torch.logspace(0, -3, n, dtype=torch.float64).unsqueeze(1)
    g = j @ j.T
    alpha = NashMTLWeighting(ridge=0.0)(g)
    assert (alpha > 0).all()
    torch.testing.assert_close(g / g.norm() @ alpha, 1 / alpha)


def test_nash_mtl_where_no_two_gradients_meet_and_where_they_cancel() -> None:
    d = torch.tensor([9.0, 1.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(NashMTLWeighting(ridge=0.0)(d.diag()), (d / d.norm()).rsqrt())
    j = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    alpha = NashMTLWeighting()(j @ j.T)
    assert torch.isfinite(alpha).all()
    assert (alpha @ j).norm() <= (2 * (j @ j.T).norm()).sqrt()


@pytest.mark.parametrize("name", BALANCED)
def test_weights_do_not_depend_on_the_scale_of_the_loss(name: str) -> None:
    """Gradients of a mean over thousands of rows are tiny: some of the weightings would take them for nothing."""
    g = gram((2, 0, 1), (-1, 1, 0))
    at_one = weights(step_of(name), g)
    assert weights(step_of(name), g * 1e-14) == pytest.approx(at_one, rel=1e-4)
    assert max(at_one) > 0.1


@pytest.mark.parametrize("name", BALANCED)
def test_no_gradient_poisons_the_step(name: str) -> None:
    step = step_of(name)
    pair = gram((2, 0), (-1, 1))
    padded = torch.zeros(3, 3, dtype=torch.float64)
    padded[:2, :2] = pair
    assert weights(step, padded) == pytest.approx([*weights(step, pair), 1.0], rel=1e-4), "a row of zeros is left out"
    assert weights(step, torch.zeros(2, 2, dtype=torch.float64)) == [1.0, 1.0]
    assert weights(step, torch.diag(torch.tensor([0.0, 3.0], dtype=torch.float64))) == [1.0, 1.0]
    for bad in (torch.nan, torch.inf):
        assert weights(step, pair.clone().fill_diagonal_(bad)) == [1.0, 1.0]
    for hard in (gram((1, 2), (-1, -2)), gram((1, 2), (1, 2)), gram((1, 0), (-1e-7, 1e-9)), gram((1e3, 1), (0, 1e-6))):
        assert all(abs(w) < 1e12 for w in weights(step, hard))
    g = torch.Generator().manual_seed(0)
    for n in (2, 3, 5):
        j = torch.randn(n, 50, generator=g, dtype=torch.float64) * torch.logspace(0, -4, n, dtype=torch.float64)[:, None]
        assert torch.isfinite(step.weights(j @ j.T)).all()
