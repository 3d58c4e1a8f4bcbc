"""A model is a bottom, a trunk and a head: embed → z (B,G,W) → h (B,T,H) → logits (B,T)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.types import Batch, Features, Field, Output, Schema

Part = Callable[..., Any]  # a partial of an nn.Module


class MTLModel(nn.Module):
    """Three parts over shared embeddings.

    Args:
        schema: fields, tasks and histories of the data.
        dim: embedding width D.
        bottom: finished as bottom(schema, dim); Features → z (B,G,W), G = 1 or T; says `width`.
        trunk: finished as trunk(schema, dim, width=bottom.width); (z, Features) → h (B,T,H); says `width`.
        head: finished as head(schema, dim, width=trunk.width, z_width=bottom.width); (h, z, Features) → Output. One that reads what
            stands inside the trunk has `join(trunk)`, called once.
        embedding_bound: embeddings start uniform within ±this; None: N(0, 0.01²).

    What a part writes into `features.extras` ends in `Output.extras`. A part's `provides` names the extras that a loss may need.

    Raises:
        SeqmtlError: a history that the bottom reads is not there, or is made of a field that is not read.
    """

    bags = True  # multi-valued fields are vectors among the others

    def __init__(
        self, schema: Schema, dim: int, bottom: Part, trunk: Part, head: Part, embedding_bound: float | None = None
    ) -> None:
        super().__init__()
        sizes = {f.name: f.size for f in schema.fields}
        self.schema = schema
        self.embedding = FieldEmbedding(schema.fields, dim, embedding_bound)
        self.bottom = bottom(schema, dim)
        self.histories: tuple[str, ...] = getattr(self.bottom, "histories", schema.history_names)
        _refuse_histories(schema, self.histories)
        own = [Field(h.name, sizes[h.field]) for h in schema.histories if h.own_table and h.name in self.histories]
        self.own_embedding = FieldEmbedding(own, dim, embedding_bound) if own else None
        self.trunk = trunk(schema, dim, width=self.bottom.width)
        self.head = head(schema, dim, width=self.trunk.width, z_width=self.bottom.width)
        if hasattr(self.head, "join"):
            self.head.join(self.trunk)
        self.provides: frozenset[str] = frozenset().union(
            *(getattr(part, "provides", ()) for part in (self.bottom, self.trunk, self.head))
        )

    def embed(self, batch: Batch) -> Features:
        """The batch's fields, target and histories as vectors; see Features."""
        fields = self.embedding(batch.fields)  # (B,F,D)
        if self.schema.bags:
            bags = [self._mean(batch.past[bag.name], batch.past_len[bag.name], bag.name) for bag in self.schema.bags]
            fields = torch.cat([fields, torch.stack(bags, 1)], 1)
        features = Features(fields, self.embedding.lookup)
        histories = tuple(h for h in self.schema.histories if h.name in self.histories)
        if histories:
            main = next((h for h in histories if h.name == self.schema.main_history), histories[0])
            features.target = fields[:, self.schema.field_names.index(main.field)]  # (B,D)
        features.past_ids = {name: batch.past[name] for name in (h.name for h in histories)}
        features.past = {
            name: (self._lookup_past(name, ids), _mask(ids, batch.past_len[name]))  # (B,L,D), (B,L)
            for name, ids in features.past_ids.items()
        }
        features.lookup_past = self._lookup_past
        return features

    def _lookup_past(self, history: str, ids: Tensor) -> Tensor:
        made_of = next(h for h in self.schema.histories if h.name == history)
        if made_of.own_table and self.own_embedding is not None:
            return self.own_embedding.lookup(history, ids)
        return self.embedding.lookup(made_of.field, ids)

    def _mean(self, ids: Tensor, n: Tensor, field: str) -> Tensor:
        """The mean vector of the ids of a multi-valued field, 0 where there are none: (B,L) → (B,D)."""
        vectors = self.embedding.lookup(field, ids) * _mask(ids, n).unsqueeze(-1)
        return vectors.sum(1) / n.clamp(min=1).unsqueeze(-1)

    def forward(self, batch: Batch) -> Output:
        features = self.embed(batch)
        z = self.bottom(features)  # (B,G,W)
        h = self.trunk(z, features)  # (B,T,H)
        output: Output = self.head(h, z, features)  # logits (B,T)
        output.extras = {**features.extras, **output.extras}
        return output


def _refuse_histories(schema: Schema, reads: Iterable[str]) -> None:
    made_of = {h.name: h.field for h in schema.histories}
    for name in reads:
        if name not in made_of:
            raise SeqmtlError(
                f"the model reads history '{name}', which dataset.histories does not name; it names {', '.join(made_of) or 'none'}"
            )
        if made_of[name] not in schema.field_names:
            raise SeqmtlError(
                f"history '{name}' is made of field '{made_of[name]}', which is no field of the data;"
                f" they are {', '.join(schema.field_names)}: add it to dataset.fields"
            )


def _mask(ids: Tensor, n: Tensor) -> Tensor:
    """(B,L) where a row has an id: by length, never by id 0, which may also be an item that was filtered."""
    return torch.arange(ids.shape[1], device=ids.device) < n.unsqueeze(1)
