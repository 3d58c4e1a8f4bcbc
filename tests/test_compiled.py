"""trainer.compile=true: the same results, and what cannot be compiled runs as it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqmtl import job


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def logits(run_dir: Path) -> Any:
    return np.load(run_dir / "test_logits.npy")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["aitm", "apem"])
def test_the_same_results_with_dropout_and_a_short_last_batch(plan: Any, model: str) -> None:
    options = (f"model={model}", "batch_size=130", "trainer.max_epochs=2")  # 600 rows: four whole batches and one of 80
    runs = [plan(*options, f"trainer.compile={compiled}", name=compiled) for compiled in ("false", "true")]
    losses = [job.run(run)["train/loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(logits(runs[1]), logits(runs[0]), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("model=shared_bottom", "step=maml"), "gradients of gradients"),
        (("model=shared_bottom", "step=gradnorm"), "its step looks at values"),
        (("model=din",), "histories"),
    ],
)
def test_what_differs_from_batch_to_batch_runs_as_it_is(
    plan: Any, with_histories: list[str], options: tuple[str, ...], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = (*options, *with_histories, "trainer.max_epochs=1", "trainer.max_batches=2")
    run, plain = plan(*words, "trainer.compile=true", name="a"), plan(*words, name="b")
    with caplog.at_level(logging.INFO, "seqmtl"):
        job.run(run)
    assert any("runs as it is" in record.message and says in record.message for record in caplog.records)
    job.run(plain)
    assert (logits(run) == logits(plain)).all()
