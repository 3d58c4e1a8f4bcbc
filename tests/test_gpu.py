"""Trainings on a GPU: recorded steps equal those that run op by op, a resumed run equals an undisturbed one, every model runs.

`pytest -m gpu`; everything else is the same code as on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import CONF
from seqmtl import job
from seqmtl.cuda_graph import GraphedStep
from seqmtl.data.resident import Resident

pytestmark = pytest.mark.gpu

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if "\nrunner:" not in path.read_text())
GPU = ("trainer=gpu", "trainer.cuda_graph=true", "trainer.max_epochs=3", "trainer.patience=3", "trainer.progress=none")


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def logits(run_dir: Path) -> Any:
    return np.load(run_dir / "test_logits.npy")


@pytest.mark.parametrize("model", ["aitm", "apem", "mmoe", "ple", "escm2", "single_task"])
def test_recorded_steps_give_the_same_bits(plan: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed: list[bool] = []
    real = GraphedStep.__call__

    def spy(self: Any, batch: Any) -> Any:
        said = real(self, batch)
        replayed.append(self.graph is not None)
        return said

    monkeypatch.setattr(GraphedStep, "__call__", spy)
    runs = [plan(f"model={model}", *GPU, f"trainer.cuda_graph={graph}", name=graph) for graph in ("true", "false")]
    metrics = [job.run(run) for run in runs]
    assert sum(replayed) == 36 - 3, "three epochs of 12 batches; the first three run op by op"
    assert metrics[0] == metrics[1]
    assert (logits(runs[0]) == logits(runs[1])).all()


@pytest.mark.parametrize("model", ["aitm", "apem"])
def test_a_gpu_learns_what_a_cpu_learns(plan: Any, model: str) -> None:
    dropout = ["model.trunk.dropout=0"] * (model == "aitm")
    here = plan(f"model={model}", *dropout, "trainer.max_epochs=1", name="cpu")
    there = plan(f"model={model}", *dropout, *GPU, "trainer.max_epochs=1", name="gpu")
    job.run(here)
    job.run(there)
    np.testing.assert_allclose(logits(there), logits(here), atol=2e-3)


@pytest.mark.parametrize("compiled", ["true", "false"])
def test_a_short_last_batch_and_compiled_parts(plan: Any, compiled: str) -> None:
    options = ("model=apem", *GPU, "batch_size=70", "trainer.max_epochs=1")
    run, plain = plan(*options, f"trainer.compile={compiled}", name="a"), plan(*options, "trainer.cuda_graph=false", name="b")
    job.run(run)
    job.run(plain)
    np.testing.assert_allclose(logits(run), logits(plain), atol=1e-4)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("model", ["aitm", "apem"])
def test_a_job_cut_off_ends_as_an_undisturbed_one(plan: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.lit import Lit

    options = (f"model={model}", *GPU, "trainer.checkpoint_every=5")
    whole, cut = plan(*options, name="whole"), plan(*options, name="cut")
    expected = job.run(whole)
    real = Lit.training_step
    monkeypatch.setattr(job, "_failed", lambda *_: None)
    for at in (3, 17, 29):

        def step(self: Any, batch: Any, batch_idx: int, at: int = at) -> None:
            if self.global_step == at:
                raise Killed
            real(self, batch, batch_idx)

        monkeypatch.setattr(Lit, "training_step", step)
        with pytest.raises(Killed):
            job.run(cut)
    monkeypatch.setattr(Lit, "training_step", real)
    assert job.run(cut) == expected
    assert (logits(cut) == logits(whole)).all()


@pytest.mark.parametrize("precision", ["tf32", "bf16-mixed"])
def test_lower_precisions_train(plan: Any, precision: str) -> None:
    metrics = job.run(plan("model=aitm", *GPU, f"trainer.precision={precision}"))
    assert metrics["train/loss"] < 1.5
    assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains(plan: Any, with_histories: list[str], model: str) -> None:
    metrics = job.run(plan(f"model={model}", *with_histories, *GPU, "trainer.max_epochs=1", "trainer.max_batches=6"))
    assert metrics["test/auc/click"] is not None


def test_rows_live_on_the_gpu_where_they_fit(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = Resident.__init__

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        made.append(self.fields.device.type)

    monkeypatch.setattr(Resident, "__init__", spy)
    resident = plan("model=aitm", *GPU, name="gpu")
    job.run(resident)
    assert made == ["cuda"] * 3
    monkeypatch.setattr("seqmtl.datamodule.fits", lambda *_: False)
    job.run(sent := plan("model=aitm", *GPU, name="sent"))
    assert len(made) == 3
    assert (logits(resident) == logits(sent)).all()
