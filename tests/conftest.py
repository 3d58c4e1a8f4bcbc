"""A tiny prepared dataset, written in the layout of docs/datasets.md by hand, as another tool would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

torch.set_num_threads(1)

CONF = Path(__file__).parents[1] / "conf"

FIELDS = {"user": 40, "item": 30, "hour": 25}
PARENTS = {"click": None, "purchase": "click"}
ROWS = {"train": 600, "valid": 200, "test": 300}


def write_dataset(
    directory: Path, rows: dict[str, int] = ROWS, seed: int = 0, parents: dict[str, str | None] = PARENTS, **meta: Any
) -> Path:
    """Random ids, labels that depend on the user and the item; two shards per split."""
    rng = np.random.default_rng(seed)
    taste = {name: rng.normal(size=size) for name, size in FIELDS.items()}
    for split, n in rows.items():
        ids = {name: rng.integers(0, size, n).astype(np.int32) for name, size in FIELDS.items()}
        score = sum(taste[name][ids[name]] for name in FIELDS)
        columns: dict[str, Any] = {"_row": np.arange(n), **ids}
        for t, (task, parent) in enumerate(parents.items()):
            happens = rng.random(n) < 1 / (1 + np.exp(-(score - t)))
            columns[task] = (happens & (columns[parent] == 1 if parent else True)).astype(np.int8)
        (directory / split).mkdir(parents=True)
        frame = pl.DataFrame(columns)
        frame[: n // 2].write_parquet(directory / split / "000.parquet")
        frame[n // 2 :].write_parquet(directory / split / "001.parquet")
    content = {"version": 1, "fields": FIELDS, "parents": parents, "rows": rows} | meta
    (directory / "meta.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """data/aliccp_sim, made by another tool, so that it fits whatever dataset.prepare says."""
    return write_dataset(tmp_path / "data" / "aliccp_sim")


@pytest.fixture
def with_histories(dataset: Path) -> list[str]:
    """The tiny dataset gets two histories, of which many are empty; what reads them by overrides of a config that has none."""
    rng = np.random.default_rng(0)
    (dataset / "histories").mkdir()
    flat = rng.integers(0, FIELDS["item"], 200).astype(np.int32)
    for name in ("seen", "passed"):
        np.save(dataset / "histories" / f"{name}.npy", flat)
    for shard in sorted(dataset.glob("*/*.parquet")):
        frame = pl.read_parquet(shard)
        for name in ("seen", "passed"):
            length = rng.integers(0, 6, len(frame)) * rng.integers(0, 2, len(frame))
            end = rng.integers(6, 200, len(frame))
            frame = frame.with_columns(pl.Series(f"{name}_end", end), pl.Series(f"{name}_len", length.astype(np.int32)))
        frame.write_parquet(shard)
    meta = json.loads((dataset / "meta.json").read_text())
    meta["histories"] = {name: {"field": "item", "items": 200} for name in ("seen", "passed")}
    (dataset / "meta.json").write_text(json.dumps(meta))
    histories = ("+dataset.histories.seen={max_len: 4}", "+dataset.histories.passed={max_len: 3, sign: -1, own_table: true}")
    return [*histories, "dataset.main_history=seen"]


Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def compose() -> Compose:
    """compose("model=mmoe", "seed=2") → the resolved train config as a plain dict; each set of overrides is composed once."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):  # once: it looks for plugins each time
        hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    made: dict[tuple[str, ...], Any] = {}

    def make(*overrides: str) -> dict[str, Any]:
        if overrides not in made:
            cfg = hydra.compose_config("train", list(overrides), RunMode.RUN, from_shell=False, with_log_configuration=False)
            with open_dict(cfg):
                del cfg["hydra"]
            made[overrides] = cfg
        return OmegaConf.to_container(made[overrides], resolve=True)  # type: ignore[return-value]

    return make


TINY = ("batch_size=50", "trainer.max_epochs=3", "trainer.patience=3", "trainer.threads=1", "trainer.progress=none")


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: made once, copied for each test."""
    from mlflow import MlflowClient

    place = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{place}").search_experiments()
    return place


@pytest.fixture
def plan(tmp_path: Path, dataset: Path, compose: Any, mlflow_database: Path) -> Any:
    """plan("model=mmoe", …, name="a") → a run directory with its config.yaml."""

    def make(*overrides: str, name: str = "run") -> Path:
        output = tmp_path / name
        run_dir = output / "run"
        run_dir.mkdir(parents=True)
        shutil.copy(mlflow_database, output)
        config = compose(*TINY, *overrides) | {"data_dir": str(dataset.parent), "output_dir": str(output)}
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        return run_dir

    return make


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
def finished(tmp_path: Path, compose: Any) -> Any:
    """finished(dataset, "model=aitm", …) → a run directory of fresh weights."""
    from figure_cases import finish

    def make(dataset: Path, *overrides: str, name: str = "run") -> Path:
        config = compose("trainer.threads=1", "trainer.progress=none", *overrides) | {
            "data_dir": str(dataset.parent),
            "output_dir": str(tmp_path),
        }
        return finish(config, tmp_path / name)

    return make


@pytest.fixture
def inner(finished: Any) -> Any:
    """inner(dataset, "model=aitm", …) → such a run, loaded to look inside."""
    from seqmtl.figures.inner import Inner

    return lambda dataset, *overrides: Inner(finished(dataset, *overrides))
