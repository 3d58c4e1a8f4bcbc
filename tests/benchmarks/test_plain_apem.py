"""APEM's plain form, against which seqmtl's is timed, computes the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seqmtl.bench.rows import RowMaker, write_rows
from seqmtl.build import build
from seqmtl.types import Batch, Field, Schema, Task
from suite.plain_apem import HIDDEN, LAYERS, POINTS, Plain, PlainAPEM, plain_loss

SIZES = {"user": 40, "item": 30, "hour": 25}
SCHEMA = Schema(tuple(Field(name, size) for name, size in SIZES.items()), (Task("click"), Task("purchase", "click")))


def same(compose: Any, gradient_step: int) -> tuple[Any, PlainAPEM, Batch, Any]:
    """seqmtl's APEM of its paper's sizes after some optimizer steps, its plain form with its weights, and a batch."""
    torch.manual_seed(0)
    config = compose("model=apem")
    model = build(config["model"], schema=SCHEMA)
    for parameter in model.parameters():  # the paper's start leaves selectors and gains at their mildest
        torch.nn.init.normal_(parameter, std=0.3)
    model.bottom.set_step(gradient_step)
    plain = PlainAPEM(SIZES, 2, 18)
    plain.take_weights(model.state_dict())
    fields = torch.stack([torch.randint(size, (16,)) for size in SIZES.values()], 1)
    clicked = torch.rand(16) < 0.5
    y = torch.stack([clicked, clicked & (torch.rand(16) < 0.5)], 1).float()
    return model, plain, Batch(fields, y), build(config["loss"], SCHEMA)


@pytest.mark.parametrize("step", [0, 45_000])
def test_log_odds_loss_and_gradients_are_those_of_ours(compose: Any, step: int) -> None:
    model, plain, batch, loss = same(compose, step)
    output, logits = model(batch), plain(batch.fields, step)
    assert logits.sub(output.logits).abs().max() < 1e-5
    assert logits.std() > 0.05  # and they say something
    ours, theirs = sum(term.sum() for term in loss(output, batch.y).values()), plain_loss(logits, batch.y)
    assert (ours - theirs).detach().abs() < 1e-5
    ours.backward()
    theirs.backward()
    tables = torch.cat([table.weight.grad for table in plain.tables])
    assert tables.sub(model.embedding.weight.grad).abs().max() < 1e-5
    points = [layer.points.grad for layer in plain.layers]
    assert all(a.sub(b.points.grad).abs().max() < 1e-5 for a, b in zip(points, model.bottom.layers, strict=True))


def test_it_has_as_many_parameters_as_ours(compose: Any) -> None:
    model, plain, _, _ = same(compose, 0)
    assert (LAYERS, POINTS, HIDDEN) == (4, 64, 64)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())


def test_it_takes_turns_on_the_batches_of_the_stream(tmp_path: Any) -> None:
    write_rows(tmp_path / "rows", RowMaker(SIZES, ("click", "purchase")), {"train": 40, "valid": 1, "test": 1})
    plain = Plain(SimpleNamespace(data=tmp_path / "rows", dim=18, batch=16, threads=1))
    assert plain.turn("train", 2)["rows"] == 32
    assert plain.turn("train", None)["rows"] == 40
    with pytest.raises(ValueError, match="training only"):
        plain.turn("infer", None)
