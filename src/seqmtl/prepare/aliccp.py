"""Ali-CCP's raw files → shards (https://tianchi.aliyun.com/dataset/408; rules of the AITM authors' script).

    sample_skeleton_{train,test}.csv   sample id, click, purchase, common-feature index, number of features, features
    common_features_{train,test}.csv   index, number of features, features

The last value of a repeated field wins, a common feature overrides one of the skeleton, values are ignored, a purchase without
a click drops the row. Ids are counted on the kept rows of the official training part, before a tenth of it becomes validation.
Multi-valued fields are left out unless they are asked for: aliccp_bags.py.

Unusual: two passes over the training rows, because an id has no number before all are counted. The first one reads the text and
puts raw ids aside on the disk, dealt to buckets at random; the second numbers and writes them, bucket by bucket, shuffled. Neither
holds more than a bucket in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.ahead import ahead
from seqmtl.prepare.aliccp_bags import Places, RawIds, chosen_bags, write_bags
from seqmtl.prepare.aliccp_line import FIELDS
from seqmtl.prepare.aliccp_real import check_test, check_train
from seqmtl.prepare.aliccp_rows import Rows, read_rows, read_users
from seqmtl.prepare.aliccp_spill import Spill, refuse_small_disk
from seqmtl.prepare.aliccp_split import Split
from seqmtl.prepare.raw import BadLines, Report
from seqmtl.prepare.truth import Truth
from seqmtl.prepare.vocabulary import Counts, Vocabulary
from seqmtl.prepare.writer import DatasetWriter

PARENTS = {"click": None, "purchase": "click"}
Columns = dict[str, NDArray[Any]]


def prepare(
    raw_dir: Path,
    directory: Path,
    *,
    options: dict[str, Any] | None = None,
    report: Report = lambda what, rows, share: None,
    min_count: int = 12,
    split: str = "replay",
    valid_share: float = 0.1,
    split_seed: int = 2020,
    shuffle_seed: int = 0,
    bags: Sequence[str] = (),
    on_bad_line: str = "error",
    rows_per_shard: int = 1_000_000,
) -> None:
    """Converts the raw files of `raw_dir` into a dataset in `directory`.

    Args:
        min_count: ids seen less often in the training part become 0. 12 is what AITM's script does, its paper says 10.
        split: `replay`: the very validation rows of AITM's script; `random`: by numpy's generator.
        valid_share: share of the kept training rows that becomes validation; `split_seed`: of the draws. Of `random` alone.
        shuffle_seed: of the order of the training rows.
        bags: names of the multi-valued fields to take along.
        on_bad_line: `error`, or `skip` and count.

    Raises:
        SeqmtlError: a file is missing, empty or bad; an option makes no sense; a split has no rows; the disk refuses.
    """
    if min_count < 1:
        raise SeqmtlError(f"dataset.prepare.min_count must be above 0, not {min_count}")
    paths = _require_files(raw_dir)
    draws = Split(split, valid_share, split_seed)
    bad = BadLines(on_bad_line)
    names = chosen_bags(bags)
    truths = {part: path for part in ("train", "test") if (path := raw_dir / f"oracle_{part}.parquet").is_file()}
    refuse_small_disk(directory, paths.values(), truths.values(), names)
    writer = DatasetWriter(directory, FIELDS, PARENTS, options, rows_per_shard, bags=names)
    sources: dict[str, dict[str, Any]] = {}

    def rows_of(part: str, places: Places) -> Iterator[Rows]:
        users = read_users(paths[f"common_features_{part}"], places, bad, sources, report)
        truth = Truth(truths[part], tuple(PARENTS)) if part in truths else None
        return read_rows(paths[f"sample_skeleton_{part}"], users, places, bad, sources, report, truth)

    skeleton = paths["sample_skeleton_train"]
    tasks = tuple(PARENTS) if "train" in truths else ()
    try:
        with (
            Spill(directory / ".spill", skeleton.stat().st_size, tasks, names, shuffle_seed) as spill,
            RawIds(directory / ".spill" / "bags", names) as raw_ids,
        ):
            counts = [Counts() for _ in FIELDS]
            places = Places(dict.fromkeys(names, 0), raw_ids.put)
            seen = _put_aside(rows_of("train", places), draws, counts, spill)
            vocabulary = {name: Vocabulary(c.frequent(min_count)) for name, c in zip(FIELDS, counts, strict=True)}
            del counts
            sizes = {name: of_field.size for name, of_field in vocabulary.items()}
            real = check_train(skeleton, seen, sizes, min_count)
            in_bags = write_bags(raw_ids, places, min_count, writer, report)
            _write_training(spill, vocabulary, writer, report)
    finally:
        shutil.rmtree(directory / ".spill", ignore_errors=True)
    places = Places(places.items, lambda name, ids: writer.history(name, in_bags[name].encode(ids)))
    _write_test(rows_of("test", places), vocabulary, writer, paths["sample_skeleton_test"] if real else None)
    sizes |= {name: of_bag.size for name, of_bag in in_bags.items()}
    writer.finish(sizes, sources, dropped=dict(bad.counts))


def _require_files(raw_dir: Path) -> dict[str, Path]:
    names = [f"{kind}_{part}" for part in ("train", "test") for kind in ("sample_skeleton", "common_features")]
    paths = {name: raw_dir / f"{name}.csv" for name in names}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise SeqmtlError(
            f"raw files of Ali-CCP are missing in {raw_dir}: {', '.join(missing)}.\n"
            "Download sample_train.tar.gz and sample_test.tar.gz from https://tianchi.aliyun.com/dataset/408 (a free account is"
            f" needed), unpack both there, and run this command again (or give raw_dir=<where they are>).\n"
            "Without them, simulated data of the same format work now: seqmtl prepare dataset=aliccp_sim"
        )
    return paths


def _put_aside(blocks: Iterator[Rows], draws: Split, counts: list[Counts], spill: Spill) -> dict[str, int]:
    """The first pass: counts and splits the rows, still with raw ids. What is known of the real file, counted here."""
    seen = dict.fromkeys(("rows", "clicks", "purchases", "purchases without a click"), 0)
    for rows in blocks:
        for of_field, ids in zip(counts, rows.ids, strict=True):
            of_field.add(ids)
        spill.add(_columns(rows), draws.valid(len(rows)))
        seen["rows"] += rows.lines
        seen["clicks"] += int(rows.click.sum(dtype=np.int64))
        seen["purchases"] += int(rows.purchase.sum(dtype=np.int64)) + rows.impossible
        seen["purchases without a click"] += rows.impossible
    return seen


def _write_training(spill: Spill, vocabulary: dict[str, Vocabulary], writer: DatasetWriter, report: Report) -> None:
    """The second pass: training in its random order, then validation in that of the file."""
    done = 0
    for split, chunks in (("train", spill.train()), ("valid", spill.valid())):
        for columns, truth in ahead(_encoded(chunk, vocabulary) for chunk in chunks):
            writer.add(split, columns, truth)
            done += len(columns["_row"])
            report("writing train and valid", done, done / max(spill.rows, 1))


def _write_test(blocks: Iterator[Rows], vocabulary: dict[str, Vocabulary], writer: DatasetWriter, real: Path | None) -> None:
    seen = 0
    for rows in blocks:
        writer.add("test", *_encoded(_columns(rows), vocabulary))
        seen += rows.lines
    if real is not None:
        check_test(real, {"rows": seen})


def _columns(rows: Rows) -> Columns:
    columns: Columns = {"_row": rows.row, "click": rows.click, "purchase": rows.purchase}
    truth = {f"truth_{task}": p for task, p in rows.truth.items()}
    return columns | dict(zip(FIELDS, rows.ids, strict=True)) | rows.columns | truth


def _encoded(columns: Mapping[str, NDArray[Any]], vocabulary: Mapping[str, Vocabulary]) -> tuple[Columns, Columns | None]:
    """The columns of a shard, and the true probabilities, if there are any."""
    encoded = {**columns, **{name: of_field.encode(columns[name]) for name, of_field in vocabulary.items()}}
    truth = {task: columns[f"truth_{task}"] for task in PARENTS if f"truth_{task}" in columns}
    return encoded, truth or None
