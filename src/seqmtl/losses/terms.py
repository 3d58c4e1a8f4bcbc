"""A loss is a sum of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from seqmtl.types import Output, Schema

Term = Callable[..., Any]  # a partial of an nn.Module


class Terms(nn.Module):
    """Called as loss(output, y) → {term: value}; each value carries its weight, so that the sum of all is the loss.

    Args:
        terms: name → what term(schema) finishes to (output, y) → (T,), a value for each task, or (), one that belongs to no task.

    `needs` names the extras without which a term cannot be computed; parameters of a term are trained with the model's. A detached
    scalar that a term puts into `output.extras` is logged as train/extra/<name>.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, schema: Schema, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict({name: term(schema) for name, term in terms.items()})
        self.needs = frozenset().union(*(getattr(term, "needs", ()) for term in self.terms.values()))

    def forward(self, output: Output, y: Tensor) -> dict[str, Tensor]:
        return {name: term(output, y) for name, term in self.terms.items()}
