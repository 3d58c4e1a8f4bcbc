"""Which histories a model reads."""

from __future__ import annotations

import torch
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.nn.ragged import Ragged
from seqmtl.types import Features, Schema


def all_histories(schema: Schema, who: str) -> tuple[str, ...]:
    """The names of all histories.

    Raises:
        SeqmtlError: there are none.
    """
    if not schema.histories:
        raise SeqmtlError(
            f"{who} reads histories of what users did, and dataset.histories names none; choose a dataset that has some,"
            " or a model that reads none, such as model=mmoe"
        )
    return schema.history_names


def main_history(schema: Schema, who: str) -> tuple[str, ...]:
    """The name of the one history that models of a single history read.

    Raises:
        SeqmtlError: there are none, or several and none is the main one.
    """
    names = all_histories(schema, who)
    if schema.main_history is None and len(names) > 1:
        raise SeqmtlError(
            f"{who} reads one history, and the data have {', '.join(names)}; choose one: dataset.main_history={names[0]}"
        )
    return (schema.main_history or names[0],)


def target(features: Features) -> Tensor:
    """The row's own item (B,D), which a model of histories holds against past ones."""
    assert features.target is not None  # MTLModel gives it wherever a bottom reads histories
    return features.target


def with_target(e: Tensor, past: Ragged, x: Tensor) -> tuple[Ragged, Tensor]:
    """The target before each row's past items: e (B,D), x (N,D) → tokens (B+N,D), at least one in every row."""
    rows = torch.arange(past.size, device=e.device)
    lengths = past.lengths.new_ones(past.size).index_add(0, past.rows, past.lengths)
    place = torch.arange(len(past), device=e.device) + past.rows[past.row] + 1  # so many targets stand before an item
    both = torch.cat([e, x])
    tokens = torch.zeros_like(both).index_copy(0, torch.cat([lengths.cumsum(0) - lengths, place]), both)
    return Ragged(past.size, rows, lengths, len(tokens), past.longest + 1 if past.size else 0), tokens
