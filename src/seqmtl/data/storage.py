"""Whether rows are held in memory or read from the disk. Imports nothing heavy: it is decided before the run directory is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqmtl.data.meta import Meta
from seqmtl.types import Schema

SHARE = 0.5  # of this machine's memory that the rows of a training may take, over all its ranks


def chosen_storage(config: Mapping[str, Any], meta: Meta, schema: Schema) -> str:
    """memory or disk: what `dataset.storage` says, or what `auto` means for these data on this machine.

    By the memory that the machine has, not by what is free now: the same command must find its run again.
    """
    storage: str = config["dataset"]["storage"]
    if storage != "auto":
        return storage
    row = 4 * (len(schema.fields) - len(schema.bags)) + len(schema.tasks) + 12 * (len(schema.histories) + len(schema.bags))
    row += 12  # its place in the order of an epoch, and in a batch
    needed = row * sum(meta.rows.values()) * int(config["trainer"]["devices"])
    return "memory" if needed <= SHARE * memory() else "disk"


def memory() -> int:
    """Bytes of memory of this machine, or of the container that we are in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total
