"""The gradients of tables, whose memory is kept from step to step: never stale, and those of plain autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqmtl.nn.embedding import FieldEmbedding, is_table, watch
from seqmtl.nn.table_gradients import add_gradients, clear_gradients, release_gradients, touched_rows
from seqmtl.steps.gradients import add
from seqmtl.types import Field

ROWS = 12


def table() -> FieldEmbedding:
    torch.manual_seed(0)
    return FieldEmbedding([Field("item", ROWS)], 2)


def plain(embedding: FieldEmbedding, ids: Tensor) -> Tensor:
    """The gradient of the sum of squares of what is read, by autograd."""
    (gradient,) = torch.autograd.grad((embedding.weight[ids] ** 2).sum(), embedding.weight)
    return gradient


def step(embedding: FieldEmbedding, *reads: Tensor) -> None:
    with watch(embedding, cut=True) as lookups:
        loss = sum((embedding.lookup("item", ids) ** 2).sum() for ids in reads)
    loss.backward()  # type: ignore[union-attr]
    add_gradients(lookups)


ids_of_a_read = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["cut", "autograd", "both", "by hand", "none"]), ids_of_a_read, ids_of_a_read), max_size=6)
)
def test_whatever_wrote_it_a_gradient_is_of_its_own_step(steps: list[tuple[str, list[int], list[int]]]) -> None:
    embedding = table()
    for kind, one, other in steps:
        a, b = torch.tensor(one), torch.tensor(other)
        clear_gradients([embedding.weight])
        assert embedding.weight.grad is None
        if kind == "none":
            continue
        expected = plain(embedding, a) + plain(embedding, b)
        if kind == "cut":
            step(embedding, a, b)
            assert set(torch.cat(touched_rows(embedding.weight) or []).tolist()) == {*one, *other}
        elif kind == "autograd":
            ((embedding.lookup("item", a) ** 2).sum() + (embedding.lookup("item", b) ** 2).sum()).backward()
        elif kind == "both":
            step(embedding, a)
            (embedding.weight[b] ** 2).sum().backward()
        else:
            step(embedding, a)
            add([embedding.weight], [plain(embedding, b)])
        torch.testing.assert_close(embedding.weight.grad, expected)
        if kind != "cut":
            assert touched_rows(embedding.weight) is None, "any row may have one"


def test_the_memory_is_kept_and_given_back() -> None:
    embedding, ids = table(), torch.tensor([3])
    step(embedding, ids)
    assert embedding.weight.grad is not None
    place = embedding.weight.grad.data_ptr()
    clear_gradients([embedding.weight])
    step(embedding, ids)
    assert embedding.weight.grad.data_ptr() == place
    release_gradients([embedding.weight])
    assert embedding.weight.grad is None
    step(embedding, ids)
    torch.testing.assert_close(embedding.weight.grad, plain(embedding, ids))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_table_that_a_batch_does_not_read_is_left_alone(optimizer: type[torch.optim.Optimizer]) -> None:
    kept, autograd = table(), table()
    optimizers = [optimizer([t.weight], lr=0.1) for t in (kept, autograd)]  # type: ignore[call-arg]
    for turn in range(6):
        clear_gradients([kept.weight])
        autograd.weight.grad = None
        if turn % 2 == 0:
            ids = torch.tensor([turn, 1])
            step(kept, ids)
            (autograd.weight[ids] ** 2).sum().backward()
        for one in optimizers:
            one.step()
        assert torch.equal(kept.weight, autograd.weight)


def test_a_copy_of_a_model_is_a_table_of_its_own() -> None:
    embedding = table()
    embedding.before_read.append(lambda rows: pytest.fail("the hook of another table"))
    other = copy.deepcopy(embedding)
    assert is_table(other.weight)
    step(other, torch.tensor([3]))
    (other.weight[torch.tensor([4])] ** 2).sum().backward()
    clear_gradients([other.weight])
    step(other, torch.tensor([5]))
    torch.testing.assert_close(other.weight.grad, plain(other, torch.tensor([5])))
