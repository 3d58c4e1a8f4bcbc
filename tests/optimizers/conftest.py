"""Stages on the tiny dataset, of few rows a batch, so that most of a table's rows are not read in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqmtl.stage import Stage


@pytest.fixture
def make(dataset: Path, compose: Any, tmp_path: Path) -> Any:
    """make("model=mmoe", …, name="a") → a stage in a folder of its own; the same name again finds what was left there."""
    from seqmtl.data.prepared import chosen_schema, open_dataset

    few = ("batch_size=3", "trainer.max_batches=25", "trainer.max_epochs=2", "trainer.patience=3", "trainer.workers=0")

    def stage(*overrides: str, name: str = "run") -> Stage:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        quiet = ("trainer.threads=1", "trainer.progress=none")
        config = compose(*few, *quiet, *overrides) | {"data_dir": str(dataset.parent)}
        directory, meta = open_dataset(config)
        return Stage(config, folder, directory, meta, chosen_schema(config, meta))

    return stage
