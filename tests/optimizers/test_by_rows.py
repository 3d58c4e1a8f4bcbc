"""Optimizers that move rows, against formulas of their own and against torch's."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_cases import BY_ROWS, NAMES, copy_of, gradient, largest, optimizer_of, table
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import FieldEmbedding, watch
from seqmtl.nn.table_gradients import add_gradients, clear_gradients, touched_rows

ROWS = 12
SEQUENCES = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=6), min_size=1, max_size=40)


class Twice(nn.Module):
    """Looks twice into one table, and into another; what it makes of it goes through a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = table(40), table(30, 2)
        self.layer = nn.Linear(8, 1)
        self.double()

    def forward(self, items: Tensor, past: Tensor, users: Tensor) -> Tensor:
        vectors = [self.items(items).flatten(1), self.items.lookup("a", past).mean(1), self.users(users).flatten(1)]
        return self.layer(torch.cat(vectors, 1)).sigmoid()


def batches(n: int) -> list[tuple[Tensor, ...]]:
    rng = torch.Generator().manual_seed(1)
    sizes = ((40, 1), (40, 3), (30, 1))
    return [tuple(torch.randint(rows, (3, columns), generator=rng, dtype=torch.int32) for rows, columns in sizes) for _ in range(n)]


def train(model: Twice, optimizer: Any, steps: int, kept: bool) -> list[Tensor]:
    """Returns the output of each step; with kept gradients as Lit and step=plain make them, else as autograd does."""
    outputs = []
    for i, batch in enumerate(batches(steps)):
        if kept:
            clear_gradients(model.parameters())
            with watch(model, cut=True) as lookups:
                output = model(*batch)
            ((output - i % 2) ** 2).mean().backward()
            add_gradients(lookups)
            assert touched_rows(model.items.weight) is not None
        else:
            optimizer.zero_grad()
            output = model(*batch)
            ((output - i % 2) ** 2).mean().backward()
        optimizer.step()
        outputs.append(output.detach())
    return outputs


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "exact_lazy_adam", "adamw", "adagrad"])
def test_fifty_steps_with_two_looks_into_a_table_are_those_of_torch(name: str, decay: float) -> None:
    mine, other = Twice(), Twice()
    of_tables = 0.0 if name == "exact_lazy_adam" else decay
    groups = [
        [
            {"params": [m.items.weight, m.users.weight], "weight_decay": of_tables},
            {"params": m.layer.parameters(), "weight_decay": decay},
        ]
        for m in (mine, other)
    ]
    reference = {"adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}.get(name, torch.optim.Adam)
    outputs = train(mine, optimizer := optimizer_of(name, groups[0], lr=0.01), 50, kept=True)
    expected = train(other, reference(groups[1], lr=0.01), 50, kept=False)
    assert largest(torch.stack(outputs), torch.stack(expected)) < 1e-9, "each step reads the values of its time"
    if name == "exact_lazy_adam":
        assert largest(mine.items.weight, other.items.weight) > 1e-4, "rows that were not read lately are behind"
        optimizer.catch_up()
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        assert largest(a, b) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_exact_lazy_adam_over_two_thousand_steps_with_rows_that_are_hardly_read(dtype: torch.dtype) -> None:
    every = [1, 2, 3, 7, 20, 61, 90, 150, 333, 700, 1500, 1999, 5000]
    lazy = table(len(every), dtype=dtype)
    dense = copy_of(lazy.weight)
    optimizer, adam = optimizer_of("exact_lazy_adam", [lazy.weight]), torch.optim.Adam([dense], fused=True)
    by = 1e-9 if dtype == torch.float64 else 5e-7  # of weights that have moved by 0.1
    for step in range(2001):
        rows = torch.tensor([r for r, n in enumerate(every) if step % n == 0])
        lazy.about_to_be_read(rows)
        assert largest(lazy.weight[rows], dense[rows]) < by
        lazy.weight.grad = gradient(rows, dense, scale=10.0 ** -(step % 9))
        dense.grad = lazy.weight.grad.clone()
        optimizer.step()
        adam.step()
        if step == 1000:
            optimizer.catch_up()
            assert largest(lazy.weight, dense) < by
    optimizer.catch_up()
    assert largest(lazy.weight, dense) < by


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SEQUENCES)
def test_exact_lazy_adam_is_adam_whatever_is_read(sequence: list[list[int]]) -> None:
    lazy = table(ROWS, dtype=torch.float64)
    dense = copy_of(lazy.weight)
    optimizer, adam = optimizer_of("exact_lazy_adam", [lazy.weight]), torch.optim.Adam([dense])
    for rows in sequence:
        lazy(torch.tensor(rows, dtype=torch.int32).view(-1, 1))
        assert largest(lazy.weight[rows], dense[rows]) < 1e-12 if rows else True
        dense.grad = gradient(rows, dense)
        lazy.weight.grad = dense.grad.clone()
        optimizer.step()
        adam.step()
    optimizer.catch_up()
    assert largest(lazy.weight, dense) < 1e-12


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SEQUENCES, st.sampled_from([0.0, 0.3]))
def test_lazy_adam_is_its_formula_row_by_row(sequence: list[list[int]], decay: float) -> None:
    lazy = table(ROWS, dtype=torch.float64)
    w = lazy.weight.detach().clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    optimizer = optimizer_of("lazy_adam", [{"params": [lazy.weight], "weight_decay": decay}], lr=0.01)
    for step, rows in enumerate(sequence, 1):
        dense = gradient(rows, w)
        lazy.weight.grad = dense.clone()
        optimizer.step()
        for row in set(rows):
            g = dense[row] + decay * w[row]
            m[row] = 0.9 * m[row] + 0.1 * g
            v[row] = 0.999 * v[row] + 0.001 * g * g
            w[row] -= 0.01 * m[row] / (1 - 0.9**step) / ((v[row] / (1 - 0.999**step)).sqrt() + 1e-8)
        assert largest(lazy.weight, w) < 1e-12


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SEQUENCES, st.sampled_from([0.0, 0.3]))
def test_rowwise_adagrad_is_its_formula_row_by_row(sequence: list[list[int]], decay: float) -> None:
    lazy = table(ROWS, dtype=torch.float64)
    w, sums = lazy.weight.detach().clone(), [0.5] * ROWS
    groups = [{"params": [lazy.weight], "weight_decay": decay}]
    optimizer = optimizer_of("rowwise_adagrad", groups, lr=0.1, initial_accumulator_value=0.5)
    for rows in sequence:
        dense = gradient(rows, w)
        lazy.weight.grad = dense.clone()
        optimizer.step()
        for row in set(rows):
            g = [float(x) + decay * float(y) for x, y in zip(dense[row], w[row], strict=True)]
            sums[row] += sum(x * x for x in g) / len(g)
            for d, x in enumerate(g):
                w[row, d] -= 0.1 * x / (math.sqrt(sums[row]) + 1e-10)
        assert largest(lazy.weight, w) < 1e-12
    assert optimizer.state[lazy.weight]["sum"].tolist() == pytest.approx(sums)


def test_rowwise_adagrad_of_one_column_is_adagrad() -> None:
    lazy = table(ROWS, dim=1, dtype=torch.float64)
    dense = copy_of(lazy.weight)
    optimizer, adagrad = optimizer_of("rowwise_adagrad", [lazy.weight]), torch.optim.Adagrad([dense])
    for step in range(20):
        dense.grad = gradient([step % ROWS, 3], dense)
        lazy.weight.grad = dense.grad.clone()
        optimizer.step()
        adagrad.step()
    assert largest(lazy.weight, dense) < 1e-14


@pytest.mark.parametrize("name", BY_ROWS)
def test_noted_rows_and_rows_that_are_looked_for_are_the_same(name: str) -> None:
    noted, other = Twice(), Twice()
    train(noted, optimizer_of(name, noted.parameters()), 12, kept=True)
    train(other, optimizer_of(name, other.parameters()), 12, kept=False)
    for a, b in zip(noted.parameters(), other.parameters(), strict=True):
        assert largest(a, b) < 1e-12


@pytest.mark.parametrize("name", BY_ROWS)
def test_a_row_that_is_not_read_keeps_its_bits_until_then(name: str) -> None:
    lazy = table(ROWS)
    optimizer = optimizer_of(name, [lazy.weight])
    for rows in ([1, 2], [2], [2, 5]):
        before = lazy.weight.detach().clone()
        lazy.weight.grad = gradient(rows, before)
        optimizer.step()
        assert (lazy.weight != before).any(1).nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("name", BY_ROWS)
def test_other_parameters_are_left_to_torch(name: str) -> None:
    lazy, other, mine = table(ROWS), nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    reference = torch.optim.Adagrad if name == "rowwise_adagrad" else torch.optim.Adam
    groups = [{"params": [lazy.weight], "weight_decay": 0.0}, {"params": [mine], "weight_decay": 0.1}]
    optimizer, dense = optimizer_of(name, groups), reference([{"params": [other], "weight_decay": 0.1}], fused=True)
    dense.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"]
    for step in range(5):
        lazy.weight.grad = gradient([step], lazy.weight)
        mine.grad = gradient([0, 2], mine)
        other.grad = mine.grad.clone()
        kept = lazy.weight.grad
        optimizer.step()
        dense.step()
        assert lazy.weight.grad is kept, "a buffer that goes on living"
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_with_the_same_bits(name: str) -> None:
    def steps(model: Twice, optimizer: Any, some: range) -> None:
        for step in some:
            torch.manual_seed(step)
            model.items.weight.grad = gradient([step % 7, step % 5], model.items.weight)
            model.layer.weight.grad = torch.randn_like(model.layer.weight)
            model.items(torch.tensor([[step % 3]]))
            optimizer.step()

    whole = Twice().float()
    steps(whole, optimizer := optimizer_of(name, whole.parameters()), range(20))
    file = io.BytesIO()
    torch.save([whole.state_dict(), optimizer.state_dict()], file)
    steps(whole, optimizer, range(20, 30))
    resumed = Twice().float()
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    again = optimizer_of(name, resumed.parameters())
    again.load_state_dict(state)
    steps(resumed, again, range(20, 30))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_step_of_a_row_is_kept_beyond_what_float32_can_count() -> None:
    lazy = table(ROWS)
    optimizer = optimizer_of("exact_lazy_adam", [lazy.weight])
    lazy.weight.grad = gradient([1], lazy.weight)
    optimizer.step()
    optimizer.state[lazy.weight]["last"][1] = 2**24 + 1
    again = optimizer_of("exact_lazy_adam", [lazy.weight])
    again.load_state_dict(optimizer.state_dict())
    assert again.state[lazy.weight]["last"][1] == 2**24 + 1


def test_a_gradient_that_is_not_finite_is_not_overlooked() -> None:
    for name in BY_ROWS:
        lazy = table(ROWS)
        optimizer = optimizer_of(name, [lazy.weight])
        lazy.weight.grad = gradient([1], lazy.weight) * math.nan
        optimizer.step()
        assert lazy.weight[1].isnan().all()


def test_l2_on_tables_is_refused_where_it_cannot_be_exact() -> None:
    lazy, layer = table(ROWS), nn.Parameter(torch.ones(2))
    optimizer_of("exact_lazy_adam", [{"params": [layer], "weight_decay": 0.1}, {"params": [lazy.weight], "weight_decay": 0.0}])
    with pytest.raises(SeqmtlError, match=r"with L2 every row has a gradient at each step.*use optimizer=adam"):
        optimizer_of("exact_lazy_adam", [{"params": [lazy.weight, layer], "weight_decay": 0.1}])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{"lr": -1.0}, {"eps": -1.0}, {"unknown": 1}])
def test_a_wrong_option_is_told(name: str, options: dict[str, float]) -> None:
    with pytest.raises(SeqmtlError):
        optimizer_of(name, [table(ROWS).weight], **options)


def test_nothing_is_called_before_a_read_without_such_an_optimizer() -> None:
    lazy = table(ROWS)
    optimizer_of("adam", [lazy.weight])
    assert isinstance(lazy, FieldEmbedding)
    assert lazy.before_read == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_does_what_the_cpu_does(name: str) -> None:
    models = [Twice(), Twice().cuda()]
    optimizers = [optimizer_of(name, model.parameters()) for model in models]
    for step in range(120):
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(step)
            pulled = gradient([step % 31, step % 7], torch.zeros_like(model.items.weight, device="cpu"))
            model.items.weight.grad = pulled.to(model.items.weight)
            model.items(torch.tensor([[step % 11]], device=model.items.weight.device))
            optimizer.step()
    for model, optimizer in zip(models, optimizers, strict=True):
        if hasattr(optimizer, "catch_up"):
            optimizer.catch_up()
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        assert all(x.device == model.items.weight.device for x in optimizer.state[model.items.weight].values() if x.ndim)
    assert largest(models[0].items.weight, models[1].items.weight.cpu()) < 1e-10
