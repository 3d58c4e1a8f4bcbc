"""What holds for every model: over conf/model/*.yaml, so that a new one is tested without a new test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_cases import CHAIN, SCHEMAS, Compose, make_batch, make_model, model_from, part
from torch import Tensor, nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.losses.bce import BCE
from seqmtl.nn.mlp import ParallelLayerNorm, ParallelLinear
from seqmtl.types import Batch, Features, Output, Schema

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(p.stem for p in (CONF / "model").glob("*.yaml") if "\nrunner:" not in p.read_text())
# Ablations are other models with a part left out: in the slow tests.
MODELS = [pytest.param(name, marks=[pytest.mark.slow] * ("_wo_" in name)) for name in NAMES]
TRUNKS = sorted(p.stem for p in (CONF / "model" / "trunk").glob("*.yaml"))
LOSSES = sorted(p.stem for p in (CONF / "loss").glob("*.yaml"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=sorted(SCHEMAS))
def schema(request: pytest.FixtureRequest) -> Schema:
    return SCHEMAS[request.param]


def loss_of(compose: Compose, schema: Schema, *overrides: str) -> nn.Module:
    loss = build(compose(*overrides)["loss"], schema=schema)
    assert isinstance(loss, nn.Module)
    return loss


def total(model: nn.Module, loss: nn.Module, batch: Batch) -> Tensor:
    output = model(batch)
    more = [v for k, v in output.extras.items() if k.startswith("loss_")]
    return torch.stack([value.sum() for value in (*loss(output, batch.y).values(), *more)]).sum()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_finite_and_of_shape_batch_by_tasks(name: str, schema: Schema, compose: Compose) -> None:
    model = make_model(compose, schema, f"model={name}", dropout=True, shrink=False)
    for rows in (1, 5):
        output = model(make_batch(schema, rows))
        assert isinstance(output, Output)
        assert output.logits.shape == (rows, len(schema.tasks))
        assert output.logits.dtype == torch.float32
        assert torch.isfinite(output.logits).all()


def stacks(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Every parameter, and whether its first dimension counts stacks of which each must learn."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            stacked = parameter.ndim == 3 or isinstance(module, ParallelLinear | ParallelLayerNorm)
            yield f"{prefix}.{name}", parameter, stacked


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_is_dead(name: str, compose: Compose) -> None:
    model = make_model(compose, CHAIN, f"model={name}")
    loss = loss_of(compose, CHAIN, f"model={name}")
    # One step first: what starts at zero hides the gradient of what stands before it.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    total(model, loss, make_batch(CHAIN, 64, seed=9)).backward()
    optimizer.step()
    optimizer.zero_grad()
    for seed in range(3):
        total(model, loss, make_batch(CHAIN, 64, seed)).backward()
    for parameter_name, parameter, stacked in stacks(model):
        assert parameter.grad is not None, parameter_name
        gradient = parameter.grad if stacked else parameter.grad.unsqueeze(0)
        assert gradient.abs().flatten(1).sum(1).gt(0).all(), parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_a_row_alone_is_the_row_in_a_batch(name: str, schema: Schema, compose: Compose) -> None:
    model = make_model(compose, schema, f"model={name}", dropout=True, shrink=False).eval()
    for parameter in model.parameters():
        # At their first values the models hardly tell rows apart, and a leak between rows would not show.
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = make_batch(schema, 7)
    together = model(batch).logits
    assert together.std(0).min() > 1e-3
    for i in range(7):
        past, past_len = ({k: v[i : i + 1] for k, v in x.items()} for x in (batch.past, batch.past_len))
        alone = model(Batch(batch.fields[i : i + 1], batch.y[i : i + 1], past=past, past_len=past_len)).logits
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)


def learn(model: nn.Module, loss: nn.Module, batch: Batch, steps: int, lr: float, enough: float) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    value = float("inf")
    for _ in range(steps):
        optimizer.zero_grad()
        bce = total(model, loss, batch)
        bce.backward()
        optimizer.step()
        value = bce.item()
        if value < enough:
            break
    return value


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("mmoe", "aitm", "apem", "dtrn"))) for n in NAMES]
)
def test_sixteen_rows_are_learnt_by_heart(name: str, compose: Compose) -> None:
    model = make_model(compose, CHAIN, f"model={name}")
    value = learn(model, loss_of(compose, CHAIN, f"model={name}", "loss=bce"), make_batch(CHAIN, 16), 1500, 0.01, 1e-2)
    assert value < 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_stays_finite_at_extreme_logits(name: str, compose: Compose) -> None:
    model = make_model(compose, CHAIN, f"model={name}")
    loss = loss_of(compose, CHAIN, f"model={name}")
    batch = make_batch(CHAIN, 8)
    for end in (60.0, -60.0):
        for parameter_name, parameter in model.named_parameters():
            if "head" in parameter_name and parameter_name.endswith("bias"):
                parameter.data.fill_(end)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(batch)
            values = loss(output, batch.y)
        assert output.logits.dtype == torch.float32
        assert output.logits.abs().max() > 50
        sum(v.sum() for v in values.values()).backward()
        assert all(torch.isfinite(v).all() for v in values.values())
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("graph", ["chain", pytest.param("tree", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_every_loss_meets_every_model(name: str, loss_name: str, graph: str, compose: Compose) -> None:
    schema = SCHEMAS[graph]
    if name == "escm2":  # its head reads what the loss is
        config = compose(f"model={name}", f"loss={loss_name}")
    else:  # one composition for all losses
        config = compose(f"model={name}") | {"loss": compose(f"loss={loss_name}")["loss"]}
    config["dataset"]["histories"] = {h.name: {"max_len": h.max_len} for h in schema.histories}
    loss = build(config["loss"], schema=schema)
    model = model_from(config["model"], schema)
    if loss.needs - model.provides:
        with pytest.raises(SeqmtlError):
            check_pairs(config)
        return
    check_pairs(config)
    value = total(model, loss, make_batch(schema, 16))
    value.backward()
    assert torch.isfinite(value)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", TRUNKS)
def test_h0_one_representation_for_all_equals_a_copy_for_each(name: str, schema: Schema) -> None:
    tasks = len(schema.tasks)
    trunk = part("trunk", name)(schema, 6, width=12).eval()
    z = torch.randn(5, 1, 12)
    shared, copies = (trunk(x, Features(torch.zeros(5, 2, 6), lambda field, ids: ids)) for x in (z, z.repeat(1, tasks, 1)))
    assert shared.shape == (5, tasks, trunk.width)
    torch.testing.assert_close(shared, copies)


@pytest.mark.parametrize("name", [name for name in TRUNKS if name not in ("aitm", "man")])  # their tasks read each other
def test_a_tasks_output_reads_its_own_representation(name: str) -> None:
    trunk = part("trunk", name)(CHAIN, 6, width=12).eval()
    features = Features(torch.zeros(5, 2, 6), lambda field, ids: ids)
    r = torch.randn(5, 3, 12)
    h = trunk(r, features)
    for t in range(3):
        torch.testing.assert_close(h[:, t], trunk(r[:, t : t + 1], features)[:, t])


def test_a_trunk_trains_on_another_papers_bottom(compose: Compose) -> None:
    model = make_model(compose, CHAIN, "model=mmoe", "model/bottom=apem", "model.bottom.layers=2")
    batch = make_batch(CHAIN, 16)
    bce = lambda output, y: {"bce": BCE(CHAIN)(output, y)}  # noqa: E731
    before = total(model, bce, batch).item()
    assert learn(model, bce, batch, 60, 0.01, 0.0) < before / 2
    assert "selected" in model(batch).extras
