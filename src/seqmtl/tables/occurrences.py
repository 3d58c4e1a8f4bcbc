"""How often what a row is about stands in its histories: DTRN (CIKM 2023), Table 1.

The caption speaks of the target item, the text of its category: the category, by default. The paper names no split, so the rows of
training, validation and test count alike, where the task is positive; a history is what a model reads, its last max_len items.

Unusual: shards do not say of what category an item of a history is. The rows do: it is the value that rows of that item have most
often, in any split. What is unknown (id 0) is like nothing else: an unknown item or category is never found again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import SPLITS, Meta
from seqmtl.errors import SeqmtlError
from seqmtl.types import Field, History, Schema, Task

if TYPE_CHECKING:
    from seqmtl.data.rows import Rows

ROWS = 65_536  # that are looked at together
Ints = NDArray[np.integer[Any]]


def occurrences(
    directory: Path, meta: Meta, histories: Mapping[str, int], tasks: Sequence[str], field: str = "category"
) -> dict[str, dict[str, float | None]]:
    """The mean number of items in a history that have the row's own value of `field`, over the rows where the task is positive.

    Args:
        directory: of the prepared dataset; `meta`: its meta.json.
        histories: {name: max_len}.
        tasks: whose positive rows count.
        field: what must be the same; the field that a history is made of (item_id) counts the item itself.

    Returns:
        {history: {task: mean}}; None where no row is positive.

    Raises:
        SeqmtlError: the data have no such field, history or task, or a file is missing or damaged.
    """
    from seqmtl.data.histories import Histories

    schema = _schema(meta, histories, tasks, field)
    value_of = {name: _value_of_items(directory, meta, schema, name, field) for name in {h.field for h in schema.histories}}
    past = Histories(directory, meta, schema)
    own = schema.field_names.index(field)
    positives = np.zeros(len(tasks), np.int64)
    found = np.zeros((len(schema.histories), len(tasks)), np.int64)
    for rows in _rows(directory, meta, schema):
        rows = rows.take(np.flatnonzero(rows.y.any(1)))
        y = rows.y.astype(np.int64)  # (N,T)
        positives += y.sum(0)
        wanted = rows.fields[:, own, None]  # (N,1)
        ids, _ = past.gather(rows)
        for m, history in enumerate(schema.histories):
            values = value_of[history.field][ids[history.name].numpy()]  # (N,L); padding is id 0, whose value is 0
            found[m] += ((values == wanted) & (wanted != 0)).sum(1) @ y
    means = [[int(n) / int(p) if p else None for n, p in zip(of_history, positives, strict=True)] for of_history in found]
    return {history.name: dict(zip(tasks, of, strict=True)) for history, of in zip(schema.histories, means, strict=True)}


def _schema(meta: Meta, histories: Mapping[str, int], tasks: Sequence[str], field: str) -> Schema:
    """What has to be read and no more."""
    for what, asked, there in (
        ("history", histories, meta.histories),
        ("task", tasks, meta.parents),
        ("field", [field], meta.fields),
    ):
        lacking = [name for name in asked if name not in there]
        if lacking or not asked:
            raise SeqmtlError(f"the data have no {what} {', '.join(lacking) or 'to count'}; they have {', '.join(there) or 'none'}")
    chosen = tuple(History(name, meta.histories[name]["field"], max_len) for name, max_len in histories.items())
    names = dict.fromkeys([field, *(history.field for history in chosen)])
    return Schema(tuple(Field(name, meta.fields[name]) for name in names), tuple(Task(name) for name in tasks), chosen)


def _rows(directory: Path, meta: Meta, schema: Schema) -> Iterator[Rows]:
    """All rows of all splits, some at a time."""
    from seqmtl.data.shards import Shards

    for split in (split for split in SPLITS if meta.rows[split]):
        shards = Shards(directory, meta, schema, split)
        for block in range(len(shards.sizes)):
            rows = shards.read([block])
            for first in range(0, len(rows), ROWS):
                yield rows.take(np.arange(first, min(first + ROWS, len(rows))))


def _value_of_items(directory: Path, meta: Meta, schema: Schema, item: str, field: str) -> Ints:
    """The value of `field` of each id of the field `item` (ids,); 0 is unknown."""
    if item == field:
        return np.arange(meta.fields[item])
    fields = Schema(schema.fields, schema.tasks)
    pairs, times = (
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
    )  # of item and value, as one number, and how often they stand together
    at_item, at_value = schema.field_names.index(item), schema.field_names.index(field)
    size = meta.fields[field]
    for rows in _rows(directory, meta, fields):
        items, values = rows.fields[:, at_item].astype(np.int64), rows.fields[:, at_value]
        seen = (items * size + values)[(items != 0) & (values != 0)]
        pairs, where = np.unique(np.concatenate([pairs, seen]), return_inverse=True)
        times = np.bincount(where, np.concatenate([times, np.ones(len(seen), np.int64)]), len(pairs)).astype(np.int64)
    item_of, value_of = np.divmod(pairs, size)
    # The last of each item wins: the value seen most often, of those the smallest.
    order = np.lexsort((-value_of, times, item_of))
    known = np.zeros(meta.fields[item], np.int64)
    known[item_of[order]] = value_of[order]
    return known
