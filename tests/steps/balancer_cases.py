"""A small model of two tables and two tasks, and steps out of the YAMLs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.steps.terms import objectives
from seqmtl.types import Batch, Field, Output, Schema, Task

CONF = Path(__file__).parents[2] / "conf"
BALANCED = ("pcgrad", "cagrad", "mgda", "imtl_g", "nash_mtl", "aligned_mtl", "upgrad")
STEPS = (*BALANCED, "dwa", "gradnorm")
PAIR = Schema((Field("a", 7), Field("b", 5)), (Task("click"), Task("buy", "click")))
Compose = Callable[..., dict[str, Any]]


def gram(*rows: tuple[float, ...]) -> Tensor:
    j = torch.tensor(rows, dtype=torch.float64)
    return j @ j.T


def weights(step: Any, g: Tensor) -> list[float]:
    return step.weights(g).tolist()


def node(name: str, *overrides: str) -> dict[str, Any]:
    """conf/step/<name>.yaml with some options replaced; composing all of a run's config takes half a second each time."""
    config = OmegaConf.load(CONF / "step" / f"{name}.yaml")
    return OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides))))  # type: ignore[return-value]


def step_of(name: str, *overrides: str, schema: Schema = PAIR) -> Any:
    return build(node(name, *overrides), schema)


def ones() -> Callable[[Tensor], Tensor]:
    return lambda g: torch.ones(len(g), dtype=g.dtype)


def fixed(*values: float) -> Callable[[], Callable[[Tensor], Tensor]]:
    return lambda: lambda g: torch.tensor(values[: len(g)], dtype=g.dtype)


class Small(nn.Module):
    """A table, a layer that both tasks read, a tower each, and a table that only the first task reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(PAIR.fields, 3)
        self.own = FieldEmbedding(PAIR.fields[:1], 2)
        self.shared = nn.Linear(6, 4)
        self.towers = nn.ModuleList([nn.Linear(6, 1), nn.Linear(4, 1)])
        self.idle = nn.Linear(2, 2)
        for table in (self.embedding, self.own):
            nn.init.normal_(table.weight)

    def forward(self, batch: Batch) -> Output:
        h = self.shared(self.embedding(batch.fields).flatten(1)).tanh()
        own = self.own(batch.fields[:, :1]).flatten(1)
        return Output(torch.cat([self.towers[0](torch.cat([h, own], 1)), self.towers[1](h)], 1))


def bce(output: Output, y: Tensor) -> dict[str, Tensor]:
    per_task = nn.functional.binary_cross_entropy_with_logits(output.logits.float(), y, reduction="none").mean(0)
    return {"bce": per_task, "spread": 0.1 * output.logits.float().var()}


def gradients(model: nn.Module, step: Any, loss: Any, batch: Batch) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    model.zero_grad()
    terms = step(model, loss, batch)
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}, terms


def of_each(model: Small, batch: Batch, names: list[str]) -> list[dict[str, Tensor]]:
    """By autograd, one after the other: the gradients of click, buy and spread."""
    found = []
    for i in range(3):
        loss = list(objectives(bce(model(batch), batch.y)).values())[i]
        parameters = [model.get_parameter(name) for name in names]
        grads = torch.autograd.grad(loss, parameters, materialize_grads=True)
        found.append(dict(zip(names, grads, strict=True)))
    return found


USED = ["embedding.weight", "own.weight", "shared.weight", "shared.bias"] + [
    f"towers.{t}.{n}" for t in "01" for n in ("weight", "bias")
]
W = (0.5, 3.0, -2.0)


def small_and_batch() -> tuple[Small, Batch]:
    torch.manual_seed(3)
    fields = torch.stack([torch.randint(0, 7, (16,)), torch.randint(0, 5, (16,))], 1)
    return Small(), Batch(fields, (torch.rand(16, 2) < 0.4).float())
