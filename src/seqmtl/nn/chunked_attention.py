"""softmax(Q Hᵀ) H, for many samples of few and narrow rows, on a CPU.

Unusual: torch's fused kernel multiplies blocks of single samples, too small to be fast at a width of 18 or for few queries, and the
plain form writes the weights of a whole batch to memory several times. Here so many samples are taken together that their weights
stay in the cache from the first product to the last. The weights are kept for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seqmtl.nn.probability import at_least_float32

WEIGHTS = 2**17  # of a chunk, for each thread: half a megabyte in float32


def attend(queries: Tensor, memory: Tensor) -> Tensor:
    """softmax(queries memoryᵀ) memory: (B,Q,D), (B,R,D) → (B,Q,D), with gradients of any order; in float32 at least.

    On a CPU all of it; elsewhere autocast, where a backward runs under it, has the say over the backward's products.
    """
    with torch.autocast(memory.device.type, enabled=False):
        q, h = at_least_float32(queries), at_least_float32(memory)
        if h.device.type != "cpu" or torch.compiler.is_compiling():
            read = plainly(q, h)
        else:
            read = _Chunked.apply(q, h, torch.is_grad_enabled() and (q.requires_grad or h.requires_grad))
        return read.to(memory.dtype)


def plainly(queries: Tensor, memory: Tensor) -> Tensor:
    """The formula. On a GPU fused kernels are no faster at such widths, and torch's other way looks for empty rows as well."""
    return (queries @ memory.mT).softmax(-1) @ memory


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, memory: Tensor, kept: bool) -> Tensor:
        weights = _room(queries, memory, whole=kept)  # (B,Q,R)
        read = queries.new_empty(queries.shape)
        for chunk in _chunks(queries, memory):
            h, out = memory[chunk], read[chunk]
            w = weights[chunk] if kept else weights[: len(h)]
            torch.bmm(queries[chunk], h.mT, out=w)
            torch.softmax(w, -1, out=w)
            torch.bmm(w, h, out=out)
        ctx.save_for_backward(queries, memory, weights)
        return read

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, memory, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of these are wanted
            return *_differentiable(queries, memory, gradient, ctx.needs_input_grad[:2]), None
        of_queries, of_memory = queries.new_empty(queries.shape), torch.empty_like(memory)
        room = _room(queries, memory)
        for chunk in _chunks(queries, memory):
            h, w, g, of_h = memory[chunk], weights[chunk], gradient[chunk], of_memory[chunk]
            of_scores = room[: len(h)]
            torch.bmm(g, h.mT, out=of_scores).mul_(w)
            of_scores.addcmul_(w, of_scores.sum(-1, keepdim=True), value=-1)
            torch.bmm(of_scores, h, out=of_queries[chunk])
            torch.bmm(w.mT, g, out=of_h)
            of_h.baddbmm_(of_scores.mT, queries[chunk])
        return of_queries, of_memory, None


def _samples(queries: Tensor, memory: Tensor) -> int:
    """How many make a chunk."""
    return max(1, WEIGHTS * torch.get_num_threads() // max(1, queries.shape[1] * memory.shape[1]))


def _chunks(queries: Tensor, memory: Tensor) -> Iterator[slice]:
    size = _samples(queries, memory)
    return (slice(start, start + size) for start in range(0, len(memory), size))


def _room(queries: Tensor, memory: Tensor, whole: bool = False) -> Tensor:
    """For the weights of a chunk, or of the whole batch."""
    samples = len(memory) if whole else min(len(memory), _samples(queries, memory))
    return queries.new_empty(samples, queries.shape[1], memory.shape[1])


def _differentiable(queries: Tensor, memory: Tensor, gradient: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of the formula alone, with a graph of their own.

    Through aliases: where the queries are made of the rows, autograd would follow the originals that way too, and count it twice.
    """
    with torch.autocast(memory.device.type, enabled=False):
        q, h = queries.view_as(queries), memory.view_as(memory)
        at = [x for x, is_needed in zip((q, h), needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(plainly(q, h), at, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)
