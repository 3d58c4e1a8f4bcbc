"""Histories of a batch, gathered from the flat arrays on the disk.

Unusual: the arrays are memory-mapped: what is read stays in the page cache, shared by all processes, and is no memory of ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmtl.data.meta import Meta, prepare_again
from seqmtl.data.rows import Rows
from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema


class Histories:
    """histories/<name>.npy of each history of the schema.

    Raises:
        SeqmtlError: a file is missing, damaged, or not as long as meta.json says.
    """

    def __init__(self, directory: Path, meta: Meta, schema: Schema) -> None:
        self.histories = schema.histories
        self.sizes = {name: meta.fields[h["field"]] for name, h in meta.histories.items()}
        self.paths = [directory / "histories" / f"{h.name}.npy" for h in self.histories]
        self.flat = [_open(path, int(meta.histories[h.name]["items"])) for path, h in zip(self.paths, self.histories, strict=True)]

    def gather(self, rows: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """past {name: (N,L) int32}, oldest first, right padded with 0, L the longest here, and past_len {name: (N,) int64}.

        Raises:
            SeqmtlError: an id is not one of the field's.
        """
        past, past_len = {}, {}
        for m, (history, flat, path) in enumerate(zip(self.histories, self.flat, self.paths, strict=True)):
            n = np.minimum(rows.length[:, m], history.max_len).astype(np.int64)
            # One column at least: a batch without any history must not be a special case of every model.
            at = np.arange(max(1, int(n.max(initial=0))))
            start = rows.end[:, m] - n
            if len(flat):
                ids = flat.take(start[:, None] + at, mode="clip")  # past its end a row reads the next one's, masked below
                ids *= at < n[:, None]
            else:
                ids = np.zeros((len(n), len(at)), np.int32)
            if ids.size and not 0 <= ids.min() <= ids.max() < self.sizes[history.name]:
                raise SeqmtlError(
                    f"{path} holds id {ids.max() if ids.min() >= 0 else ids.min()}, but the ids of field '{history.field}' run from"
                    f" 0 to {self.sizes[history.name] - 1}; {prepare_again(path.parents[1])}"
                )
            past[history.name], past_len[history.name] = torch.from_numpy(ids), torch.from_numpy(n)
        return past, past_len


def _open(path: Path, items: int) -> NDArray[np.int32]:
    again = prepare_again(path.parents[1])
    try:
        flat = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise SeqmtlError(f"{path} is missing; {again}") from None
    except (OSError, ValueError) as e:
        if items == 0 and "mmap" in str(e):  # an empty file cannot be mapped
            return np.zeros(0, np.int32)
        raise SeqmtlError(f"{path} is damaged ({e}); {again}") from None
    if flat.dtype != np.int32 or flat.shape != (items,):
        raise SeqmtlError(f"{path} must hold {items:,} int32 ids, but has {flat.shape} of {flat.dtype}; {again}")
    return flat
