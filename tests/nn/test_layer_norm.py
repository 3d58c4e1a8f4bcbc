"""A layer normalization that is written out equals torch's, with its gradients and theirs."""

from __future__ import annotations

import torch
from torch import nn

from seqmtl.nn.layer_norm import LayerNorm, written_out


def test_values_and_gradients_of_both_orders() -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(3, 5, 6, dtype=torch.float64) * 3 + 1).requires_grad_()
    weights, at = torch.randn(3, 5, 6, dtype=torch.float64), [x, norm.weight, norm.bias]
    found = []
    for y in (norm(x), written_out(norm, x)):
        first = torch.autograd.grad((y * weights).sum(), at, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, norm.weight])
        found.append([y, *first, *second])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


def test_rows_that_are_all_equal_stay_finite_and_half_precision_is_raised() -> None:
    norm = LayerNorm(4)
    x = torch.full((2, 4), 3.0, requires_grad=True)
    y = written_out(norm, x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 4))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    for device in ("cpu", "meta"):
        assert LayerNorm(4).to(device)(torch.zeros(2, 4, dtype=torch.bfloat16, device=device)).dtype == torch.float32
