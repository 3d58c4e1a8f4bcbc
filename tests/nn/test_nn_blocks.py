"""Embedding, probability, the smooth step, the attention and the task graph: analytic cases."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from seqmtl.errors import SeqmtlError
from seqmtl.nn.attention import Attention
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.nn.graph import edges, resolve_parents
from seqmtl.nn.probability import logit_and
from seqmtl.nn.smooth_step import Gamma, smooth_step
from seqmtl.types import Field, Schema, Task


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_each_field_reads_its_own_rows() -> None:
    table = FieldEmbedding([Field("a", 3), Field("b", 2), Field("c", 4)], 5)
    ids = torch.tensor([[0, 1, 3], [2, 0, 0]])
    wanted = table.weight[torch.tensor([[0, 4, 8], [2, 3, 5]])]
    assert table.weight.shape == (9, 5)
    assert torch.equal(table(ids), wanted)
    assert torch.equal(table(ids.int()), wanted)
    assert torch.equal(table.lookup("c", ids[:, 2].int()), wanted[:, 2])
    assert FieldEmbedding([Field("a", 4000)], 5).weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_logit_and_golden() -> None:
    # Log-odds 2, -1 and 0.5: log(1 - product) of the spec.
    p = logit_and(logit_and(torch.tensor(2.0).double(), torch.tensor(-1.0).double()), torch.tensor(0.5).double())
    assert F.logsigmoid(-p).item() == pytest.approx(-0.1595233273, abs=1e-10)
    # log p - log(1 - p) is NaN or infinite here.
    both = logit_and(torch.tensor(40.0), torch.tensor(40.0))
    assert F.logsigmoid(-both).item() == pytest.approx(-39.306854, abs=1e-5)
    assert logit_and(torch.tensor(math.inf), torch.tensor(0.3)).item() == pytest.approx(0.3)


@given(st.floats(-15, 15), st.floats(-15, 15))
def test_logit_and_is_the_product(a: float, b: float) -> None:
    x, y = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert logit_and(x, y).sigmoid().item() == pytest.approx((x.sigmoid() * y.sigmoid()).item(), rel=1e-9)


@given(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32))
def test_a_product_never_exceeds_its_factors(a: float, b: float) -> None:
    x = torch.tensor([a, b], requires_grad=True)
    product = logit_and(x[0], x[1])
    product.backward()
    assert product <= min(a, b) + 1e-3
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("gamma", [10.0, 1.0, 1e-3])
def test_smooth_step_table(gamma: float) -> None:
    s = gamma * torch.tensor([-5.0, -0.5, -0.25, 0.0, 0.25, 0.5, 5.0], dtype=torch.float64)
    s.requires_grad_()
    zeta = smooth_step(s, gamma)
    torch.testing.assert_close(zeta.detach(), torch.tensor([0, 0, 0.15625, 0.5, 0.84375, 1, 1], dtype=torch.float64))
    zeta.sum().backward()
    wanted = torch.tensor([0, 0, 1.125, 1.5, 1.125, 0, 0], dtype=torch.float64) / gamma
    torch.testing.assert_close(s.grad, wanted)


def test_smooth_step_golden_and_symmetric() -> None:
    one = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    zeta = smooth_step(one, 10.0)
    zeta.backward()
    assert zeta.item() == pytest.approx(0.648, abs=1e-12)
    assert one.grad.item() == pytest.approx(0.144, abs=1e-12)
    s = torch.linspace(-8, 8, 41, dtype=torch.float64)
    torch.testing.assert_close(smooth_step(s, 10.0) + smooth_step(-s, 10.0), torch.ones_like(s))
    # The form of eq. 13.
    inside = s[s.abs() < 5]
    torch.testing.assert_close(smooth_step(inside, 10.0), -2 / 1000 * inside**3 + 3 / 20 * inside + 0.5)


def test_gamma_schedule() -> None:
    def at(step: int, **options: float) -> float:
        return Gamma(**options)(torch.tensor(step)).item()

    assert at(0) == 10.0
    assert at(49_994) > 1e-3 + 1e-4
    assert at(49_995) == pytest.approx(1e-3, abs=1e-9)
    assert at(10**6) == 1e-3
    assert at(37_200) == pytest.approx(2.56)
    values = [at(step) for step in range(0, 60_000, 2_500)]
    assert values == sorted(values, reverse=True)
    assert at(70, steps_to_floor=70) == pytest.approx(1e-3, abs=1e-9)
    assert at(35, steps_to_floor=70) == pytest.approx((10 + 1e-3) / 2)
    assert at(10**6, min=0.1) == 0.1
    for wrong in ({"min": 0.0}, {"init": 1.0, "min": 2.0}, {"steps_to_floor": 0}):
        with pytest.raises(SeqmtlError, match="gamma"):
            Gamma(**wrong)


@pytest.mark.parametrize("project_query", [False, True])
def test_attention_equals_that_of_torch(project_query: bool) -> None:
    attention = Attention(6, heads=2, n=3, project_query=project_query).double()
    query, memory = torch.randn(4, 3, 5, 6, dtype=torch.float64), torch.randn(4, 7, 6, dtype=torch.float64)
    out = attention(query, memory)
    for i in range(3):

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (2, 3)).transpose(1, 2)

        q = query[:, i] @ attention.query.weight[i].T if project_query else query[:, i]
        k, v = memory @ attention.key.weight[i].T, memory @ attention.value.weight[i].T
        o = F.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).flatten(-2)
        torch.testing.assert_close(out[:, i], o @ attention.out.weight[i].T)
    # A query without a batch is that of every row.
    torch.testing.assert_close(attention(query[:1], memory), attention(query[:1].expand(4, -1, -1, -1), memory))
    with pytest.raises(SeqmtlError, match="heads=4 does not divide the width 6"):
        Attention(6, heads=4)


def test_parents_of_the_schema_or_given() -> None:
    chain = Schema((Field("a", 2),), (Task("x"), Task("y", "x"), Task("z", "y")))
    loose = Schema((Field("a", 2),), (Task("x"), Task("y"), Task("z")))
    assert resolve_parents(chain, None, "AITM", "o") == [None, 0, 1]
    assert resolve_parents(loose, [None, 0, 0], "AITM", "o") == [None, 0, 0]
    assert edges([None, 0, None, 0, 2]) == ([0, 0, 2], [1, 3, 4])
    with pytest.raises(
        SeqmtlError, match=r"AITM needs a task that follows another.*give model\.trunk\.parents=\[null,0,0\] or choose"
    ):
        resolve_parents(loose, None, "AITM", "model.trunk.parents")
    with pytest.raises(SeqmtlError, match="2 entries for the 3 tasks x, y, z"):
        resolve_parents(loose, [None, 0], "AITM", "o")
    for wrong in ([None, 1, 0], [None, 0, 3], [None, -1, 0]):
        with pytest.raises(SeqmtlError, match="a parent is the index of a task before it"):
            resolve_parents(loose, wrong, "AITM", "o")
