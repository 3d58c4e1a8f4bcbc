"""A tiny model and what a step does to it, for the tests of meta-learning."""

from __future__ import annotations

from typing import Any

import torch
from model_cases import CHAIN
from torch import Tensor, nn

from seqmtl.losses.bce import BCE
from seqmtl.losses.terms import Terms
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.types import Batch, Field, Output, Schema

BAGS = Schema((*CHAIN.fields, Field("words", 12, bag=4)), CHAIN.tasks, CHAIN.histories, CHAIN.main_history)


def bce(schema: Schema) -> nn.Module:
    return Terms(schema, {"bce": BCE})


def gradients(step: Any, model: nn.Module, loss: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients that a step leaves, zeros where it leaves none, and the terms that it tells."""
    model.zero_grad()
    loss.zero_grad()
    said = step(model, loss, batch)
    named = [*model.named_parameters(), *loss.named_parameters("loss")]
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}, said


def same(one: tuple[dict[str, Tensor], Any], two: tuple[dict[str, Tensor], Any], **tolerance: float) -> None:
    torch.testing.assert_close(one[0], two[0], **tolerance)
    torch.testing.assert_close(one[1], two[1], **tolerance)


def take(batch: Batch, rows: Any) -> Batch:
    past, past_len = ({k: v[rows] for k, v in x.items()} for x in (batch.past, batch.past_len))
    return Batch(batch.fields[rows], batch.y[rows], batch.share, past, past_len)


def queries(batch: Batch) -> Batch:
    return take(batch, slice(0, None, 2))


class Reader(nn.Module):
    """Reads one table as fields, as history and through lookup, and squares what it read."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.table = FieldEmbedding(CHAIN.fields, dim)
        self.out = nn.Linear(dim, len(CHAIN.tasks))

    def forward(self, batch: Batch) -> Output:
        own = self.table(batch.fields).tanh().sum(1)
        past = self.table.lookup("item", batch.past["click"]).square().sum(1)
        again = self.table.lookup("item", batch.fields[:, 1])
        return Output(self.out((own + past) * (1 + again)))


class Scaled(nn.Module):
    """A loss with a parameter, as uncertainty weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]).double())
        self.bce = BCE(CHAIN).double()

    def forward(self, output: Output, y: Tensor) -> dict[str, Tensor]:
        return {"scaled": 0.5 * (-self.s).exp() * self.bce(output, y), "rest": 0.5 * self.s.sum()}
