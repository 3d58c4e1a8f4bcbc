"""The meta-gradient: the golden case, against differences, plain steps and dense gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from maml_cases import BAGS, Reader, Scaled, bce, gradients, queries, same, take
from model_cases import CHAIN, CONF, make_batch, make_model
from torch import Tensor, nn

from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.steps.maml import MAML
from seqmtl.steps.plain import Plain
from seqmtl.types import Batch, Field, History, Output, Schema, Task

Compose = Callable[..., dict[str, Any]]

MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml") if "\nrunner:" not in p.read_text())
ONE = Schema((Field("a", 3),), (Task("x"),))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Scalar(nn.Module):
    """One parameter θ, which is every row's logit; as an ordinary parameter, or as a row of a table."""

    def __init__(self, table: bool) -> None:
        super().__init__()
        self.table = FieldEmbedding(ONE.fields, 1) if table else None
        if self.table is not None:
            nn.init.constant_(self.table.weight, 2.0)
        else:
            self.theta = nn.Parameter(torch.tensor(2.0))
        self.double()

    def forward(self, batch: Batch) -> Output:
        return Output(self.theta.expand(len(batch), 1) if self.table is None else self.table(batch.fields).squeeze(1))


class Quadratic(nn.Module):
    """L_a = 1.5 (θ - 1)² of the rows with y = 1, L_b = (θ + 1)² of those with y = 0."""

    def forward(self, output: Output, y: Tensor) -> dict[str, Tensor]:
        theta = output.logits
        return {"quadratic": torch.where(y == 1, 1.5 * (theta - 1) ** 2, (theta + 1) ** 2).mean()}


@pytest.mark.parametrize("scope", ["all", "dense"])
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(("first_order", "gradient"), [(False, 3.78), (True, 5.4)])
def test_scalar_quadratic_golden(table: bool, scope: str, first_order: bool, gradient: float) -> None:
    """θ = 2, α = 0.1: θ' = 1.7, L_b = 7.29, its gradient 5.4, times dθ'/dθ = 0.7."""
    model, loss = Scalar(table), Quadratic()
    batch = Batch(torch.ones(4, 1, dtype=torch.int64), torch.tensor([[0.0], [1.0], [0.0], [1.0]]))
    said = MAML(ONE, alpha=0.1, tasks=1, first_order=first_order, inner_scope=scope)(model, loss, batch)
    assert said["quadratic"].item() == pytest.approx(7.29, abs=1e-12)
    assert said["extra/support_loss"].item() == pytest.approx(1.5, abs=1e-12)
    wanted = torch.tensor([[0.0], [gradient], [0.0]]) if table else torch.tensor(gradient)
    (parameter,) = model.parameters()
    torch.testing.assert_close(parameter.grad, wanted.double())
    assert torch.equal(parameter.detach(), torch.full_like(parameter, 2.0))


@pytest.mark.parametrize(("reduction", "times"), [("mean", 1), ("sum", 2)])
def test_two_tasks_are_averaged_or_summed(reduction: str, times: int) -> None:
    model, loss = Scalar(False), Quadratic()
    # The second task has no support that pulls: of y = 0 both, so θ' = 2 - 0.1·6 = 1.4 and the gradient 4.8·0.8.
    y = torch.tensor([0.0, 1.0, 0.0, 0.0]).unsqueeze(1)
    said = MAML(ONE, alpha=0.1, tasks=2, reduction=reduction)(model, loss, Batch(torch.zeros(4, 1, dtype=torch.int64), y))
    assert model.theta.grad.item() == pytest.approx((3.78 + 4.8 * 0.8) / 2 * times)
    assert said["quadratic"].item() == pytest.approx((7.29 + 2.4**2) / 2), "what is told is the mean"


@pytest.mark.parametrize("name", MODELS)
def test_alpha_0_is_a_plain_step_on_the_query_halves(name: str, compose: Compose) -> None:
    model, loss = make_model(compose, CHAIN, f"model={name}"), bce(CHAIN)
    batch = make_batch(CHAIN, 16)
    wanted = gradients(Plain(CHAIN), model, loss, queries(batch))
    same(gradients(MAML(CHAIN, alpha=0.0), model, loss, batch), wanted, rtol=1e-4, atol=1e-6)


def with_bags(batch: Batch) -> Batch:
    g = torch.Generator().manual_seed(5)
    batch.past["words"] = torch.randint(0, 12, (len(batch), 4), generator=g).int()
    batch.past_len["words"] = torch.randint(0, 5, (len(batch),), generator=g)
    return batch


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("first_order", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_adapting_the_rows_read_is_adapting_the_whole_tables(name: str, first_order: bool, compose: Compose) -> None:
    """Ids stand many times in a batch, and also in histories and bags of the same table."""
    model, loss = make_model(compose, BAGS, f"model={name}").double(), bce(BAGS)
    for parameter in model.parameters():
        # At their first values second derivatives are next to nothing; M2M's, which multiplies what it makes, would explode.
        parameter.data += (0.05 if name == "m2m" else 0.3) * torch.randn_like(parameter)
    batch = with_bags(make_batch(CHAIN, 32))
    options = {"alpha": 0.3, "first_order": first_order}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sparse = gradients(MAML(BAGS, inner_scope="all", **options), model, loss, batch)
    dense = gradients(MAML(BAGS, inner_scope="dense", **options), model, loss, batch)
    same(sparse, dense, rtol=1e-9, atol=1e-12)
    other = gradients(MAML(BAGS, **options | {"first_order": not first_order}), model, loss, batch)[0]
    assert all(not torch.allclose(other[k], g, rtol=1e-3) for k, g in sparse[0].items() if k.endswith("embedding.weight"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "nothing is changed in place"


def test_the_meta_gradient_against_differences() -> None:
    model, loss, batch, step = Reader().double(), bce(CHAIN).double(), make_batch(CHAIN, 12), MAML(CHAIN, alpha=0.5)
    for parameter in model.parameters():
        parameter.data.normal_()
    found = gradients(step, model, loss, batch)[0]
    g = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        for _ in range(8):
            way, h = torch.randn(parameter.shape, generator=g, dtype=torch.float64), 1e-5
            sides = []
            for sign in (1, -1):
                parameter.data += sign * h * way
                sides.append(step(model, loss, batch)["bce"].item())
                parameter.data -= sign * h * way
            slope = (sides[0] - sides[1]) / (2 * h)
            assert slope == pytest.approx((found[name] * way).sum().item(), rel=1e-6, abs=1e-8), name


def test_rows_that_only_the_query_reads_stay() -> None:
    """θ' against the same by hand."""
    model, loss, batch = Reader().double(), bce(CHAIN).double(), make_batch(CHAIN, 6)
    support, query = take(batch, slice(1, None, 2)), queries(batch)
    by_hand = Reader().double()
    by_hand.load_state_dict(model.state_dict())
    loss(by_hand(support), support.y)["bce"].sum().backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.3 * parameter.grad
    wanted = loss(by_hand(query), query.y)["bce"].sum()
    said = MAML(CHAIN, alpha=0.3, tasks=1)(model, loss, batch)
    torch.testing.assert_close(said["bce"], wanted.detach())
    head = MAML(CHAIN, alpha=0.3, tasks=1, inner_scope="head")(model, loss, batch)
    by_hand.table.weight.data = model.table.weight.data
    torch.testing.assert_close(head["bce"], loss(by_hand(query), query.y)["bce"].sum().detach())


class Biggest(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the tensors of a table's size that are made."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.made = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        new = isinstance(out, Tensor) and not func.is_view and func._schema.name.rpartition("_")[2] != ""
        self.made += new and out.numel() == self.size
        return out


def test_nothing_of_a_tables_size_but_its_gradient() -> None:
    model, loss, batch = Reader(), bce(CHAIN), make_batch(CHAIN, 12)
    made = {}
    for scope in ("all", "dense"):
        model.zero_grad()
        with Biggest(model.table.weight.numel()) as biggest:
            MAML(CHAIN, inner_scope=scope)(model, loss, batch)
        made[scope] = biggest.made
    assert made["all"] == 1
    assert made["dense"] > 10


def test_parameters_of_the_loss_get_a_gradient_and_are_not_adapted() -> None:
    model, loss, batch, step = Reader().double(), Scaled(), make_batch(CHAIN, 12), MAML(CHAIN, alpha=0.4, tasks=1)
    found = gradients(step, model, loss, batch)[0]["loss.s"]
    for t in range(3):
        sides = []
        for sign in (1, -1):
            loss.s.data[t] += sign * 1e-5
            sides.append(sum(v for k, v in step(model, loss, batch).items() if not k.startswith("extra/")).item())
            loss.s.data[t] -= sign * 1e-5
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(found[t].item(), rel=1e-6)


def test_meta_learning_moves_closer_to_every_task() -> None:
    """Two values of a field whose rows have opposite labels: no θ serves both, but one can be a step away from each."""
    schema = Schema((Field("group", 2), Field("bias", 1)), (Task("x"),))

    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5))

        def forward(self, batch: Batch) -> Output:
            return Output((self.gain * self.bias).expand(len(batch), 1))

    group = torch.arange(40) % 2
    batch = Batch(torch.stack([group, torch.zeros(40, dtype=torch.int64)], 1), group.float().unsqueeze(1))
    losses = {}
    for kind, step in (("plain", Plain(schema)), ("meta", MAML(schema, alpha=0.5, task_by="feature:group"))):
        model, loss = Bias(), bce(schema)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(200):
            optimizer.zero_grad()
            step(model, loss, batch)
            optimizer.step()
        losses[kind] = MAML(schema, alpha=0.5, task_by="feature:group")(model, loss, batch)["bce"].item()
    assert losses["meta"] < losses["plain"] - 0.05


def test_histories_are_read_from_the_table_of_their_field() -> None:
    """An own table and a shared one, in the model that has both."""
    from seqmtl.models.flat import Flat
    from seqmtl.models.linear import Linear
    from seqmtl.models.mtl import MTLModel
    from seqmtl.models.towers import Towers

    schema = Schema(CHAIN.fields, CHAIN.tasks, (History("click", "item", 3), History("view", "item", 3, own_table=True)), "click")

    class Pool(nn.Module):
        histories = ("click", "view")

        def __init__(self, schema: Schema, dim: int) -> None:
            super().__init__()
            self.flat = Flat(schema, dim)
            self.width = self.flat.width + 2 * dim

        def forward(self, features: Any) -> Tensor:
            pooled = [(items * mask.unsqueeze(-1)).square().sum(1) for items, mask in features.past.values()]
            return torch.cat([self.flat(features), *(p.unsqueeze(1) for p in pooled)], -1)

    def towers(schema: Schema, dim: int, width: int) -> nn.Module:
        return Towers(schema, dim, width, dims=[4], dropout=0.0)

    model = MTLModel(schema, 3, Pool, towers, Linear).double()
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    batch = make_batch(schema, 24)
    step = {scope: MAML(schema, alpha=0.3, inner_scope=scope) for scope in ("all", "dense")}
    found = {scope: gradients(s, model, bce(schema).double(), batch) for scope, s in step.items()}
    same(found["all"], found["dense"], rtol=1e-9, atol=1e-12)
    assert found["all"][0]["own_embedding.weight"].any()
