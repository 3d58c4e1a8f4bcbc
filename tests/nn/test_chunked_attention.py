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


def test_queries_that_are_made_of_the_rows_are_not_counted_twice() -> None:
    _, memory = inputs(3, 2, 4)
    w = torch.randn(3, 3, dtype=torch.float64)
    assert gradgradcheck(lambda x: attend(x @ w, x), (memory,))
    (once,), (twice,) = (
        torch.autograd.grad(attend(memory @ w, memory).square().sum(), memory, create_graph=c) for c in (False, True)
    )
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("shared", [False, True])
def test_the_sizes_of_apem(shared: bool) -> None:
    torch.manual_seed(0)
    queries = torch.randn(1 if shared else 37, 128, 18, requires_grad=True)
    memory = torch.randn(37, 64, 18, requires_grad=True)  # 16 in a chunk of one thread: the last one is short
    found, expected = (read(queries.expand(37, -1, -1), memory) for read in (attend, plainly))
    torch.testing.assert_close(found, expected)
    for w in (torch.randn_like(found), torch.ones(()).expand_as(found)):
        gradients = [torch.autograd.grad((read * w).sum(), (queries, memory), retain_graph=True) for read in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


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
    expected = plainly(queries, memory)
    gradients = torch.autograd.grad(expected.square().sum(), (queries, memory))
    for of_higher_order in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            found = attend(queries, memory)
            of_found = torch.autograd.grad(found.square().sum(), (queries, memory), create_graph=of_higher_order)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(of_found, gradients, msg="in float32")
