"""The flat arrays beside the shards: histories/<name>.npy and bags/<name>.npy, a piece at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import Meta
from seqmtl.prepare.check_findings import Findings, first_line
from seqmtl.prepare.raw import Report

PIECE = 1 << 22  # ids


def check_histories(directory: Path, meta: Meta, findings: Findings, report: Report) -> dict[str, str]:
    """sha256 of the ids of each array that can be read, by its path inside the dataset."""
    arrays = [(f"histories/{name}.npy", meta.fields.get(of["field"]), of["items"]) for name, of in meta.histories.items()]
    arrays += [(f"bags/{name}.npy", of["size"], of["items"]) for name, of in meta.bags.items()]
    total, done, hashes = max(1, sum(items for *_, items in arrays)), 0, {}
    for name, size, items in arrays:
        flat = _open(directory / name, name, items, findings)
        if flat is None:
            continue
        digest = hashlib.sha256()
        for start in range(0, len(flat), PIECE):
            piece = flat[start : start + PIECE]
            _range(piece, name, start, size, findings)
            digest.update(np.ascontiguousarray(piece).data)
            done += len(piece)
            report("check histories", done, done / total)
        hashes[name] = digest.hexdigest()
    return hashes


def _open(path: Path, name: str, items: int, findings: Findings) -> NDArray[Any] | None:
    try:
        flat = np.load(path, mmap_mode="r" if items else None, allow_pickle=False)
    except FileNotFoundError:
        findings.error("histories", f"{name} is missing")
    except Exception as e:  # numpy parses the header as Python text, so a damaged one raises what it happens to
        findings.error("histories", f"{name} is damaged or no .npy file ({first_line(e)})")
    else:
        if flat.dtype == np.int32 and flat.ndim == 1:
            if len(flat) != items:
                findings.error("histories", f"{name} holds {len(flat):,} ids, not the {items:,} of meta.json")
            elif not items:
                findings.warn("histories", f"{name} is empty")
            return flat
        findings.error("histories", f"{name} must be one flat array of int32, but is of {flat.dtype} and shape {flat.shape}")
    return None


def _range(piece: NDArray[np.int32], name: str, start: int, size: int | None, findings: Findings) -> None:
    if size is None or (piece.min() >= 0 and piece.max() < size):
        return
    wrong = (piece < 0) | (piece >= size)
    first = int(np.argmax(wrong))
    where = f"at {start + first:,}, with {piece[first]}"
    findings.count("histories", f"{name}: ids are outside of 0..{size - 1}", int(np.count_nonzero(wrong)), where, unit="ids")
