"""The mask of dropout: its rate, its scale, its independence, and that it follows the seed."""

from __future__ import annotations

import pytest
import torch

from seqmtl.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.999])
def test_rate_and_scale(p: float) -> None:
    torch.manual_seed(0)
    n = 400_000
    y = Dropout(p)(torch.ones(n))
    kept = y != 0
    assert y[kept].unique().numel() == 1
    assert float(y.max()) == pytest.approx(1 / (1 - p), rel=2e-2 if p > 0.9 else 1e-4), "scaled by the rate that was drawn"
    spread = (p * (1 - p) / n) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - p)) < 4.5 * spread + 1 / 2**17
    assert float(y.double().mean()) == pytest.approx(1, abs=4.5 * spread / (1 - p))


def test_entries_are_independent() -> None:
    torch.manual_seed(1)
    kept = (Dropout(0.3)(torch.ones(2000, 100)) != 0).double() - 0.7
    for lag in (1, 2, 3, 4, 5, 100):  # four entries come out of one draw
        flat = kept.flatten()
        correlation = float((flat[:-lag] * flat[lag:]).mean()) / 0.21
        assert abs(correlation) < 4.5 / len(flat) ** 0.5


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (5, 7), (2, 3, 5), (0, 4)])
def test_shapes_and_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.5)(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y != 0, 2.0, 0.0).double())


def test_the_seed_decides() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(Dropout(0.5)(torch.ones(1000)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_no_draw_in_evaluation_and_at_the_ends() -> None:
    x = torch.randn(10)
    state = torch.get_rng_state()
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not Dropout(1.0)(x).any()
