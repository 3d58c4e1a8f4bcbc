"""Attention against its formula, one sample, one attention and one head at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqmtl.nn.attention import Attention


def by_hand(attention: Attention, query: Tensor, memory: Tensor) -> Tensor:
    """(B or 1,n,Q,D), (B,R,D) → (B,n,Q,D)."""

    def project(layer: object, i: int, x: Tensor) -> Tensor:
        return x if layer is None else x @ layer.weight[i].T  # type: ignore[attr-defined]

    m, rows = attention.heads, []
    for b, h in enumerate(memory):
        for i in range(query.shape[1]):
            j = i if attention.out is not None and attention.out.n > 1 else 0
            q = project(attention.query, j, query[b if len(query) > 1 else 0, i])
            k, v = project(attention.key, j, h), project(attention.value, j, h)
            heads = []
            for q_h, k_h, v_h in zip(q.chunk(m, -1), k.chunk(m, -1), v.chunk(m, -1), strict=True):
                weights = (q_h @ k_h.T / q_h.shape[-1] ** 0.5).exp()
                heads.append(weights @ v_h / weights.sum(-1, keepdim=True))
            rows.append(project(attention.out, j, torch.cat(heads, -1)))
    return torch.stack(rows).unflatten(0, (len(memory), -1))


@pytest.mark.parametrize("samples", [1, 3], ids=["one query for all", "queries of their own"])
@pytest.mark.parametrize("q", [1, 2, 7], ids=lambda q: f"Q={q}")
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    ("n", "kinds"), [(1, {}), (4, {}), (4, {"project": False}), (1, {"project": False}), (1, {"project_query": True})], ids=str
)
def test_the_formula(n: int, kinds: dict[str, bool], heads: int, q: int, samples: int) -> None:
    torch.manual_seed(0)
    made = Attention(6, heads, n=n, **kinds).double()
    query = torch.randn(samples, n, q, 6, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    found, expected = made(query, memory), by_hand(made, query, memory)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(found)
    at = [query, memory, *made.parameters()]
    gradients = [torch.autograd.grad((x * weights).sum(), at) for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("project_query", [False, True])
def test_each_query_is_multiplied(project_query: bool) -> None:
    torch.manual_seed(0)
    made = Attention(6, 2, project_query=project_query).double()
    query, memory, zeta = (torch.randn(*shape, dtype=torch.float64) for shape in ((1, 1, 7, 6), (3, 5, 6), (3, 7)))
    torch.testing.assert_close(made(query, memory, zeta), by_hand(made, query * zeta[:, None, :, None], memory))


def test_half_precision() -> None:
    torch.manual_seed(0)
    made = Attention(6, 2).bfloat16()
    memory = torch.randn(2, 300, 6).bfloat16()
    for q in (1, 8):
        query = torch.randn(1, 1, q, 6, dtype=torch.bfloat16)
        expected = by_hand(made.float(), query.float(), memory.float())
        made.bfloat16()
        torch.testing.assert_close(made(query, memory).float(), expected, rtol=2e-2, atol=1e-2)
