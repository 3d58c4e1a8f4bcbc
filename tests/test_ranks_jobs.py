"""A whole job on two ranks, under torchrun: it leaves what one process leaves, once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqmtl import job
from seqmtl.launch.command import Job, command

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def on_two_ranks(run_dir: Path) -> dict[str, float | None]:
    subprocess.run(command(Job(run_dir, 2), ""), check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600)
    return json.loads((run_dir / "metrics.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "options",
    [
        ("model=mmoe", "batch_size=64"),
        # The last batch of the 600 rows has one row, for one of the ranks.
        ("model=mmoe", "batch_size=599", "dataset.storage=disk"),
        ("model=man", "model.stages.meta.step.alpha=0.5", "batch_size=32"),
        # The last step of the first stage has two rows, that of the second too.
        ("model=man", "model.stages.meta.step.alpha=0.5", "batch_size=299"),
    ],
    ids=" ".join,
)
def test_two_ranks_equal_one_process(plan: Any, options: tuple[str, ...]) -> None:
    options += ("model.trunk.dropout=0", "trainer.max_epochs=2", "trainer.log_every=1")
    one, two = plan(*options, name="one"), plan(*options, "trainer.devices=2", "trainer.strategy=ddp", name="two")
    expected, found = job.run(one), on_two_ranks(two)
    assert found.keys() == expected.keys()
    by = 1e-3 if "model=man" in options else 1e-4
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=by), name
    assert np.allclose(np.load(one / "test_logits.npy"), np.load(two / "test_logits.npy"), atol=by)
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    assert history(two).keys() == history(one).keys()
    assert [len(points) for points in history(two).values()] == [len(points) for points in history(one).values()]


def history(run_dir: Path) -> dict[str, list[int]]:
    """{metric: steps} of the only MLflow run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    assert run.info.status == "FINISHED"
    return {name: [m.step for m in client.get_metric_history(run.info.run_id, name)] for name in sorted(run.data.metrics)}
