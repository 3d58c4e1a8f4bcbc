"""A run that is finished without having been trained: fresh weights, and what a run directory holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from figure_cases import finish

from seqmtl.figures.inner import Inner

SMALL = ("trainer.threads=1", "trainer.progress=none")
Finish = Callable[..., Path]


@pytest.fixture
def chain(dataset: Path) -> Path:
    """The tiny dataset gets a step between its two: half of the clicks, and all purchases."""
    for shard in sorted(dataset.glob("*/*.parquet")):
        frame = pl.read_parquet(shard)
        frame = frame.with_columns(cart=(pl.col("purchase") | (pl.col("click") & (pl.col("_row") % 2).cast(pl.Int8))))
        frame.write_parquet(shard)
    meta = json.loads((dataset / "meta.json").read_text())
    meta["parents"] = {"click": None, "cart": "click", "purchase": "cart"}
    (dataset / "meta.json").write_text(json.dumps(meta))
    return dataset


@pytest.fixture
def finished(tmp_path: Path, compose: Any) -> Finish:
    """finished(dataset, "model=aitm", …) → a run directory."""

    def make(dataset: Path, *overrides: str, name: str = "run") -> Path:
        config = compose(*SMALL, *overrides) | {"data_dir": str(dataset.parent), "output_dir": str(tmp_path)}
        return finish(config, tmp_path / name)

    return make


@pytest.fixture
def inner(finished: Finish) -> Callable[..., Inner]:
    """inner(dataset, "model=aitm", …) → the run, loaded."""
    return lambda dataset, *overrides: Inner(finished(dataset, *overrides))
