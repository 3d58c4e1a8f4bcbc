"""Small runs of model=lightgbm, and what they left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from seqmtl import job
from seqmtl.runner import reduced

TASKS = ("click", "purchase")
SMALL = {"rounds": 30, "patience": 5, "num_leaves": 7, "learning_rate": 0.3}


def small(plan: Any) -> Callable[..., Path]:
    """small(plan)("seed=2", name="a", model={…}, dataset={…}) → the run directory of a small model=lightgbm."""

    def make(*overrides: str, name: str = "run", model: Any = None, dataset: Any = None, trainer: Any = None) -> Path:
        run_dir: Path = plan("model=lightgbm", *overrides, name=name)
        config = reduced(job.read_config(run_dir))
        config["model"] |= SMALL | (model or {})
        config["dataset"] |= dataset or {}
        config["trainer"] |= trainer or {}
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        return run_dir

    return make


def columns(directory: Path, split: str, names: tuple[str, ...]) -> Any:
    """Of the shards, without any code of seqmtl."""
    return pl.read_parquet(sorted((directory / split).glob("*.parquet"))).select(names).to_numpy()


def rewrite(directory: Path, change: Any) -> None:
    """Other labels; `change` takes a split and its frame. meta.json counts nothing, so nothing else has to change."""
    for shard in directory.glob("*/*.parquet"):
        change(shard.parent.name, pl.read_parquet(shard)).write_parquet(shard)


def points(run_dir: Path) -> dict[str, list[int]]:
    """{metric: the steps that it was logged at}, of the only MLflow run; they are all different."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    (run,) = [r for r in found if r.info.status == "FINISHED"]
    assert len(found) == 1
    histories = {key: [m.step for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}
    assert all(len(set(steps)) == len(steps) for steps in histories.values())
    return {key: sorted(steps) for key, steps in histories.items()}
