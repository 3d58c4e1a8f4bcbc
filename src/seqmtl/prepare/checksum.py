"""What the checksum of a dataset is taken over: the columns of the shards in their order, and the values in them.

Unusual: values are hashed, not Parquet bytes, so a newer Arrow does not change the checksum of the same data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def column_types(fields: Iterable[str], tasks: Iterable[str], sequences: Iterable[str]) -> dict[str, str]:
    """The columns of a shard, in order, with their numpy types; `sequences`: histories, then multi-valued fields."""
    types = dict.fromkeys(fields, "int32") | dict.fromkeys(tasks, "int8") | {"_row": "int64"}
    return types | {f"{name}_{what}": kind for name in sequences for what, kind in (("end", "int64"), ("len", "int32"))}


def shard_hash(columns: Mapping[str, Sequence[NDArray[Any]]]) -> str:
    """sha256 of a shard; each column is given in pieces, one after another, however it was cut."""
    digest = hashlib.sha256()
    for name, pieces in columns.items():
        digest.update(f"{name}:{pieces[0].dtype}:{sum(map(len, pieces))};".encode())
        for values in pieces:
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def dataset_checksum(
    sizes: Mapping[str, int], parents: Mapping[str, str | None], hashes: Mapping[str, str], sequences: Mapping[str, str]
) -> str:
    """The checksum in meta.json.

    Args:
        sizes: number of ids of each field, multi-valued ones too; `parents`: of the tasks.
        hashes: of each shard, and sha256 of the ids of each history, by its path inside the dataset.
        sequences: the field of each history, and of each multi-valued field itself.
    """
    what: dict[str, Any] = {"fields": dict(sizes), "parents": dict(parents), "shards": dict(hashes)}
    if sequences:
        what["histories"] = dict(sequences)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
