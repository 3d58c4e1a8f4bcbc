"""Histories and multi-valued fields of a batch, gathered from the flat arrays on the disk.

Unusual: the arrays are memory-mapped: what is read stays in the page cache, shared by all processes, and is no memory of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmtl.data.meta import Meta, prepare_again
from seqmtl.data.rows import Rows
from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema


@dataclass(frozen=True)
class Sequence:
    """Ids of varying number beside the rows: `path` is below the dataset, `size` the number of ids, `items` how many are stored."""

    name: str
    path: str
    size: int
    items: int
    max_len: int


def sequences(meta: Meta, schema: Schema) -> list[Sequence]:
    """What a schema reads beside the rows: its histories, then its multi-valued fields."""
    stored = [(h.name, meta.fields[h.field], int(meta.histories[h.name]["items"]), h.max_len) for h in schema.histories]
    found = [Sequence(name, f"histories/{name}.npy", *numbers) for name, *numbers in stored]
    return found + [Sequence(b.name, f"bags/{b.name}.npy", b.size, int(meta.bags[b.name]["items"]), b.bag) for b in schema.bags]


class Histories:
    """The flat arrays of all that a schema reads beside the rows.

    Raises:
        SeqmtlError: a file is missing, damaged, or not as long as meta.json says.
    """

    def __init__(self, directory: Path, meta: Meta, schema: Schema) -> None:
        self.directory = directory
        self.sequences = sequences(meta, schema)
        self.flat = [_open(directory, sequence) for sequence in self.sequences]

    def gather(self, rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """past {name: (N,L) int32}, oldest first, right padded with 0, L the longest here, and past_len {name: (N,) int64}.

        Raises:
            SeqmtlError: an id is not one of the field's.
        """
        past, past_len = {}, {}
        for m, (sequence, flat) in enumerate(zip(self.sequences, self.flat, strict=True)):
            n = np.minimum(rows.length[:, m], sequence.max_len).astype(np.int64)
            # One column at least: a batch without any history must not be a special case of every model.
            at = np.arange(max(1, int(n.max(initial=0))))
            start = rows.end[:, m] - n
            if len(flat):
                ids = flat.take(start[:, None] + at, mode="clip")  # past its end a row reads the next one's, masked below
                ids *= at < n[:, None]
            else:
                ids = np.zeros((len(n), len(at)), np.int32)
            if ids.size and not 0 <= ids.min() <= ids.max() < sequence.size:
                raise SeqmtlError(
                    f"{self.directory / sequence.path} holds id {ids.max() if ids.min() >= 0 else ids.min()}, but its ids run from"
                    f" 0 to {sequence.size - 1}; {prepare_again(self.directory)}"
                )
            past[sequence.name], past_len[sequence.name] = torch.from_numpy(ids), torch.from_numpy(n)
        return past, past_len


def _open(directory: Path, sequence: Sequence) -> NDArray[np.int32]:
    path, items, again = directory / sequence.path, sequence.items, prepare_again(directory)
    try:
        flat = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SeqmtlError(f"{path} is missing; {again}") from None
    except Exception as e:  # numpy parses the header as Python, and a damaged one fails in many ways
        if items == 0 and "mmap" in str(e):  # an empty file cannot be mapped
            return np.zeros(0, np.int32)
        raise SeqmtlError(f"{path} is damaged ({e}); {again}") from None
    if not isinstance(flat, np.ndarray):
        raise SeqmtlError(f"{path} is damaged (an archive of arrays); {again}")
    if flat.dtype != np.int32 or flat.shape != (items,):
        raise SeqmtlError(f"{path} must hold {items:,} int32 ids, but has {flat.shape} of {flat.dtype}; {again}")
    return flat
