"""Attention by chunks of samples against the plain formula: values, gradients of both orders, and what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from seqmtl.nn import chunked_attention
from seqmtl.nn.chunked_attention import attend, plainly


def inputs(b: int, q: int, r: int, shared: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    queries = torch.randn(1 if shared else b, q, 3, dtype=dtype, requires_grad=True)
    return queries, torch.randn(b, r, 3, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("weights", [1, 30, 2**16], ids="{} weights in a chunk".format)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("b", "q", "r"), [(5, 4, 3), (7, 1, 1), (1, 3, 2), (0, 2, 2)], ids=str)
def test_the_plain_formula(b: int, q: int, r: int, shared: bool, weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_attention, "WEIGHTS", weights)
    queries, memory = inputs(b, q, r, shared)
    found, expected = (read(queries.expand(b, -1, -1), memory) for read in (attend, plainly))
    torch.testing.assert_close(found, expected)
    w = torch.randn_like(found)
    gradients = [torch.autograd.grad((read * w).sum(), (queries, memory)) for read in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_gradients_of_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_attention, "WEIGHTS", 8)
    queries, memory = inputs(3, 2, 4)
    assert gradcheck(attend, (queries, memory))
    assert gradgradcheck(attend, (queries, memory))
    frozen = memory.detach()
    assert gradgradcheck(lambda x: attend(x, frozen), (queries,)), "where the rows need none"
    assert gradgradcheck(lambda x: attend(queries.detach(), x), (memory,))


def test_without_gradients_no_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_attention, "WEIGHTS", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    queries, memory = inputs(50, 2, 4)
    made: list[int] = []
    real = Tensor.new_empty

    def noted(like: Tensor, *size: int, **options: Any) -> Tensor:
        new = real(like, *size, **options)
        made.append(new.numel())
        return new

    monkeypatch.setattr(Tensor, "new_empty", noted)
    with torch.no_grad():
        found = attend(queries, memory)
    assert max(made) == found.numel(), "what is read, and the weights of one sample beside it"
    torch.testing.assert_close(found, plainly(queries, memory))


def test_half_precision_around_it() -> None:
    queries, memory = inputs(5, 4, 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(queries.bfloat16(), memory)
        found.sum().backward()
    assert found.dtype == torch.float32
    assert queries.grad is not None
    torch.testing.assert_close(found, plainly(queries, memory), rtol=2e-2, atol=2e-2)
