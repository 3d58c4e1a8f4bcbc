"""Ali-CCP's raw files → shards (https://tianchi.aliyun.com/dataset/408; rules of the AITM authors' script).

    sample_skeleton_{train,test}.csv   sample id, click, purchase, common-feature index, number of features, features
    common_features_{train,test}.csv   index, number of features, features
    features                           field \\x02 id \\x03 value, with \\x01 between them

The last value of a repeated field wins, a common feature overrides one of the skeleton, values are ignored, a purchase without
a click drops the row. Ids are counted on the kept rows of the official training part, before a tenth of it becomes validation.

Unusual: a line is taken apart by four calls of C speed (`translate`, `split`, `zip`, `itemgetter`); only a line that fails is
looked at with care, to say what is wrong with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.aliccp_line import FIELDS, MISSING, explain
from seqmtl.prepare.raw import BadLines, RawFile, Report
from seqmtl.prepare.writer import DatasetWriter

PARENTS = {"click": None, "purchase": "click"}
WIDTH = len(FIELDS)
Ids = NDArray[np.int32]

_PICK = itemgetter(*(name.encode() for name in FIELDS))
_NONE = {name.encode(): str(MISSING).encode() for name in FIELDS}
_LABEL = {b"0": 0, b"1": 1}
_ONE_SEPARATOR = bytes.maketrans(b"\x01\x03", b"\x02\x02")
_NOT_SEPARATORS = bytes(set(range(256)) - {1, 2, 3})
_FEATURE = b"\x02\x03\x01"


def prepare(
    raw_dir: Path,
    directory: Path,
    *,
    options: dict[str, Any] | None = None,
    report: Report = lambda what, rows, share: None,
    min_count: int = 12,
    valid_share: float = 0.1,
    split_seed: int = 2020,
    on_bad_line: str = "error",
    rows_per_shard: int = 1_000_000,
) -> None:
    """Converts the raw files of `raw_dir` into a dataset in `directory`.

    Args:
        min_count: ids seen less often in the training part become 0. 12 is what AITM's script does, its paper says 10.
        valid_share: share of the kept training rows that becomes validation.
        split_seed: of Python's generator, drawn once per kept row; 2020 repeats AITM's split.
        on_bad_line: `error`, or `skip` and count.

    Raises:
        SeqmtlError: a file is missing, empty or bad; a split has no rows; the disk refuses.
    """
    _require_files(raw_dir)
    if not 0 < valid_share < 1:
        raise SeqmtlError(f"dataset.prepare.valid_share must lie between 0 and 1, not {valid_share}")
    bad = BadLines(on_bad_line)
    sources: dict[str, dict[str, Any]] = {}
    writer = DatasetWriter(directory, FIELDS, PARENTS, options, rows_per_shard)

    train = list(_rows(raw_dir, "train", bad, sources, report))
    if not train:
        train = [_Rows.none()]
    vocabulary = [_frequent([chunk.ids[f] for chunk in train], min_count) for f in range(WIDTH)]
    valid = _draws(split_seed, sum(len(chunk) for chunk in train)) >= 1 - valid_share
    oracle = _Oracle(raw_dir)
    start = 0
    for chunk in train:
        here = valid[start : start + len(chunk)]
        start += len(chunk)
        encoded = chunk.encode(vocabulary)
        for split, keep in (("train", ~here), ("valid", here)):
            writer.add(split, {name: values[keep] for name, values in encoded.items()})
            oracle.keep(split, chunk.row[keep])
    del train
    for chunk in _rows(raw_dir, "test", bad, sources, report):
        writer.add("test", chunk.encode(vocabulary))
        oracle.keep("test", chunk.row)

    oracle.write(writer)
    sizes = {name: len(ids) + 1 for name, ids in zip(FIELDS, vocabulary, strict=True)}
    writer.finish(sizes, sources, dropped=dict(bad.counts))


def _require_files(raw_dir: Path) -> None:
    names = [f"{kind}_{split}.csv" for split in ("train", "test") for kind in ("sample_skeleton", "common_features")]
    missing = [name for name in names if not (raw_dir / name).is_file()]
    if missing:
        raise SeqmtlError(
            f"raw files of Ali-CCP are missing in {raw_dir}: {', '.join(missing)}.\n"
            "Download sample_train.tar.gz and sample_test.tar.gz from https://tianchi.aliyun.com/dataset/408 (a free account is"
            f" needed), unpack both there, and run this command again (or give raw_dir=<where they are>).\n"
            "Without them, simulated data of the same format work now: seqmtl prepare dataset=aliccp_sim"
        )


@dataclass
class _Rows:
    """Some rows of a skeleton with their common features: row (n,) int64, labels (n,) int8, raw ids (F,n) int32."""

    row: NDArray[np.int64]
    click: NDArray[np.int8]
    purchase: NDArray[np.int8]
    ids: Ids

    def __len__(self) -> int:
        return len(self.row)

    @staticmethod
    def none() -> _Rows:
        return _Rows(np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.int8), np.empty((WIDTH, 0), np.int32))

    def encode(self, vocabulary: list[Ids]) -> dict[str, NDArray[Any]]:
        """The columns of a shard; an id gets its place in the vocabulary, from 1, or 0."""
        columns: dict[str, NDArray[Any]] = {"_row": self.row, "click": self.click, "purchase": self.purchase}
        for name, known, ids in zip(FIELDS, vocabulary, self.ids, strict=True):
            if len(known):
                place = np.searchsorted(known, ids).clip(max=len(known) - 1)
                columns[name] = np.where(known[place] == ids, place + 1, 0).astype(np.int32)
            else:
                columns[name] = np.zeros(len(ids), np.int32)
        return columns


def _frequent(chunks: list[Ids], min_count: int) -> Ids:
    ids, counts = np.unique(np.concatenate(chunks), return_counts=True)
    return ids[(counts >= min_count) & (ids != MISSING)]


def _draws(seed: int, n: int) -> NDArray[np.float64]:
    """The first n numbers of `random.seed(seed)`, by numpy's Mersenne Twister set to the state of Python's."""
    state = Random(seed).getstate()[1]
    twister = np.random.MT19937()
    twister.state = {
        "bit_generator": "MT19937",
        "state": {"key": np.array(state[:-1], np.uint32), "pos": state[-1]},
    }
    return np.random.Generator(twister).random(n)


def _features(text: bytes, n: bytes) -> list[int]:
    """Raw ids of the 18 fields, MISSING where there is none; ValueError or OverflowError if anything is wrong."""
    if text.translate(None, _NOT_SEPARATORS) != (_FEATURE * int(n))[:-1]:
        raise ValueError
    parts = text.translate(_ONE_SEPARATOR).split(b"\x02")
    values = _PICK(_NONE | dict(zip(parts[::3], parts[1::3], strict=False)))  # a later value replaces an earlier one
    if not b"".join(values).isdigit():
        raise ValueError
    return [*map(int, values)]


def _common(raw: RawFile, bad: BadLines) -> tuple[dict[bytes, int], Ids]:
    """Place of each index, and the raw ids at that place, (n,F)."""
    places: dict[bytes, int] = {}
    ids = array("i")
    for first, lines in raw.blocks():
        for number, line in enumerate(lines, first):
            try:
                if not line.isascii():
                    line.decode()
                index, n, text = line.split(b",")
                ids.extend(_features(text, n))
                places[index] = len(ids) // WIDTH - 1
            except (ValueError, OverflowError):
                del ids[len(ids) // WIDTH * WIDTH :]
                reason, words = explain(line, 3, None, number == raw.last_line)
                bad.line(raw.path, number, f"common_features: {reason}", words)
    return places, np.array(ids, np.int32).reshape(-1, WIDTH)


def _rows(raw_dir: Path, split: str, bad: BadLines, sources: dict[str, dict[str, Any]], report: Report) -> Iterator[_Rows]:
    """The kept rows of an official part, block by block."""
    common = RawFile(raw_dir / f"common_features_{split}.csv")
    skeleton = RawFile(raw_dir / f"sample_skeleton_{split}.csv")
    places, of_user = _common(common, bad)
    for first, lines in skeleton.blocks():
        rows, users, ids = _block(skeleton, first, lines, places, bad)
        click, purchase = rows[:, 1].astype(np.int8), rows[:, 2].astype(np.int8)
        impossible = (click == 0) & (purchase == 1)
        bad.counts["purchase_without_click"] += int(impossible.sum())
        shared = of_user[users] if len(users) else ids
        ids = np.where(shared != MISSING, shared, ids)[~impossible]
        yield _Rows(rows[~impossible, 0], click[~impossible], purchase[~impossible], np.ascontiguousarray(ids.T))
        report(f"reading {skeleton.path.name}", first + len(lines) - 1, skeleton.bytes / skeleton.total)
    for raw in (common, skeleton):
        sources[raw.path.name] = raw.source


def _block(
    raw: RawFile, first: int, lines: list[bytes], places: dict[bytes, int], bad: BadLines
) -> tuple[NDArray[np.int64], NDArray[np.int64], Ids]:
    """(n,3) row, click, purchase · (n,) place of the user · (n,F) raw ids of the skeleton."""
    rows, users, ids = array("q"), array("q"), array("i")
    for number, line in enumerate(lines, first):
        try:
            if not line.isascii():
                line.decode()
            _, click, purchase, index, n, text = line.split(b",")
            row = (number - 1, _LABEL[click], _LABEL[purchase])
            user = places[index]
            ids.extend(_features(text, n))
        except (ValueError, KeyError, OverflowError):
            del ids[len(users) * WIDTH :]
            reason, words = explain(line, 6, places, number == raw.last_line)
            bad.line(raw.path, number, reason, words)
        else:
            rows.extend(row)
            users.append(user)
    return (
        np.array(rows, np.int64).reshape(-1, 3),
        np.array(users, np.int64),
        np.array(ids, np.int32).reshape(-1, WIDTH),
    )


class _Oracle:
    """The true probabilities of a simulation, if there are any beside the raw files, taken along to the splits."""

    def __init__(self, raw_dir: Path) -> None:
        self.raw_dir = raw_dir
        self.there = (raw_dir / "oracle_train.parquet").is_file()
        self.rows: dict[str, list[NDArray[np.int64]]] = {"train": [], "valid": [], "test": []}

    def keep(self, split: str, rows: NDArray[np.int64]) -> None:
        if self.there:
            self.rows[split].append(rows)

    def write(self, writer: DatasetWriter) -> None:
        if not self.there:
            return
        import pyarrow.parquet as pq

        for part, splits in (("train", ("train", "valid")), ("test", ("test",))):
            table = pq.read_table(self.raw_dir / f"oracle_{part}.parquet").sort_by("_row")
            known = table["_row"].to_numpy()
            for split in splits:
                rows = np.concatenate([*self.rows[split], np.empty(0, np.int64)])
                place = np.searchsorted(known, rows)
                writer.oracle(split, rows, {task: table[task].to_numpy()[place] for task in PARENTS})
