"""Whatever byte of a dataset is damaged: the check ends in words, and what it calls valid can be read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from check_damages import edit_meta, said, write_whole

from seqmtl.data.histories import Histories
from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.data.shards import Shards
from seqmtl.types import Field, History


def read_all(directory: Path) -> None:
    """Every row, with everything beside it."""
    meta = read_meta(directory)
    histories = tuple(History(name, str(of["field"]), 9) for name, of in meta.histories.items())
    bags = tuple(Field(name, of["size"], 9) for name, of in meta.bags.items())
    schema = replace(meta.schema(), fields=meta.schema().fields + bags, histories=histories)
    beside = Histories(directory, meta, schema)
    for split in SPLITS:
        beside.gather(Shards(directory, meta, schema, split).load())


def damage(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    match rng.integers(4):
        case 0:
            data[at] ^= int(rng.integers(1, 256))
        case 1:
            del data[at:]
        case 2:
            data[at:at] = rng.bytes(5)
        case _:
            del data[at : at + 5]
    path.write_bytes(data)


@pytest.mark.parametrize("cases", [range(20), pytest.param(range(20, 400), marks=pytest.mark.slow)], ids=["few", "many"])
def test_what_the_check_calls_valid_can_be_read(tmp_path: Path, cases: range) -> None:
    whole, valid = write_whole(tmp_path / "whole"), 0
    for case in cases:
        rng = np.random.default_rng(case)
        directory = Path(shutil.copytree(whole, tmp_path / str(case)))
        if case % 2:
            edit_meta(directory, shards={})  # else a change of size tells
        damage(rng.choice(sorted(p for p in directory.rglob("*") if p.is_file())), rng)
        printed, last = said(directory)
        if last.endswith("is a valid dataset"):
            valid += 1
            read_all(directory)
        else:
            assert "wrong with" in last, printed
    assert valid < len(cases) / 2
