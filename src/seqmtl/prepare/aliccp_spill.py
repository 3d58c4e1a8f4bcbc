"""Training rows of Ali-CCP put aside on the disk, with raw ids, until all ids are counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.disk import disk_errors
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.aliccp_line import FIELDS
from seqmtl.prepare.shuffle import Shuffle

BUCKET_BYTES = 64 << 20  # of raw text: a quarter of a million rows or more
OF_ROWS = "210"  # of the multi-valued fields: the others belong to users
MOST_BUCKETS = 200  # files that are open at once
VALID_ROWS = 1 << 18  # validation rows that are read at once
TYPES = {"_row": "int64", "click": "uint8", "purchase": "uint8"} | dict.fromkeys(FIELDS, "int32")

# Bytes on the disk for each byte of a skeleton, rounded up (real lines are longer); an oracle is copied twice.
SPILL_SHARE, SHARDS_SHARE = 0.5, 0.3
# The same for the two places of each multi-valued field, and for the ids; those of users as a share of the common features.
PLACE_SPILL_SHARE, PLACE_SHARDS_SHARE, OWN_IDS_SHARE, USER_IDS_SHARE = 0.1, 0.07, 0.15, 0.5

Columns = Mapping[str, NDArray[Any]]


class Spill:
    """Rows below `directory`: training rows dealt to the buckets of a shuffle, validation rows in one file, in their order.

    Args:
        raw_bytes: of the skeleton; it sets the number of buckets, so that the order depends on nothing but the files.
        tasks: those of which true probabilities come along; bags: multi-valued fields; seed: of the shuffle.

    Raises:
        SeqmtlError: the disk refuses.
    """

    def __init__(self, directory: Path, raw_bytes: int, tasks: Iterable[str], bags: Iterable[str], seed: int) -> None:
        places = {f"{name}_{what}": kind for name in bags for what, kind in (("end", "int64"), ("len", "int32"))}
        types = TYPES | places | {f"truth_{task}": "float64" for task in tasks}
        buckets = min(MOST_BUCKETS, 1 + raw_bytes // BUCKET_BYTES)
        self.row = np.dtype(list(types.items()))
        self.rows = 0
        self.path = directory / "valid.rows"
        with disk_errors(directory):
            directory.mkdir(parents=True)
            self.file = self.path.open("wb")
        self.shuffle = Shuffle(directory / "train", types, buckets, seed)

    def add(self, columns: Columns, valid: NDArray[np.bool_]) -> None:
        """Appends rows; those that `valid` says to validation."""
        self.rows += len(valid)
        train, rest = np.flatnonzero(~valid), np.flatnonzero(valid)
        self.shuffle.add_rows({name: values[train] for name, values in columns.items()})
        records = np.empty(len(rest), self.row)
        for name in self.row.names or ():
            records[name] = columns[name][rest]
        with disk_errors(self.path):
            self.file.write(records.data.cast("B") if len(records) else b"")

    def train(self) -> Iterator[Columns]:
        """The training rows in their random order."""
        return self.shuffle.chunks()

    def valid(self) -> Iterator[Columns]:
        """The validation rows in the order of the file."""
        with disk_errors(self.path):
            self.file.close()
            with self.path.open("rb") as f:
                while len(records := np.fromfile(f, self.row, VALID_ROWS)):
                    yield {name: np.ascontiguousarray(records[name]) for name in self.row.names or ()}

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shuffle.close()
        self.file.close()


def refuse_small_disk(directory: Path, raw: Iterable[Path], truths: Iterable[Path], bags: Sequence[str]) -> None:
    """Stops before anything is written if what is put aside and the shards do not fit on the disk of `directory`."""
    sizes = {path.name: path.stat().st_size for path in raw}
    skeletons = {name: size for name, size in sizes.items() if name.startswith("sample_skeleton")}
    of_rows = sum(skeletons.values())
    needed = (SPILL_SHARE + PLACE_SPILL_SHARE * len(bags)) * skeletons["sample_skeleton_train.csv"]
    needed += (SHARDS_SHARE + PLACE_SHARDS_SHARE * len(bags)) * of_rows
    needed += OWN_IDS_SHARE * of_rows if OF_ROWS in bags else 0
    needed += USER_IDS_SHARE * (sum(sizes.values()) - of_rows) if {*bags} - {OF_ROWS} else 0
    needed += 2 * sum(path.stat().st_size for path in truths)
    there = directory
    while not there.exists():
        there = there.parent
    with disk_errors(directory):
        free = shutil.disk_usage(there).free
    if free < needed:
        raise SeqmtlError(
            f"preparing these files needs about {needed / 1e9:.1f} GB on the disk of {directory}, but only {free / 1e9:.1f} GB"
            " are free; make room there or choose another place (data_dir)"
        )
