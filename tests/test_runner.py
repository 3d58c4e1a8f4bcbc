"""What a config of a model with a runner of its own leaves out: in its hash, in a sweep, and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from seqmtl.errors import SeqmtlError
from seqmtl.plan import Plan
from seqmtl.runner import reduced
from seqmtl.runs import config_hash, run_directory
from test_cli import SMALL, seqmtl

UNREAD = (
    *("loss=calibrated", "optimizer.lr=0.1", "optimizer.decay=[]", "batch_size=64", "experiment=aitm", "experiment=demo"),
    *("trainer=gpu", "trainer=ddp", "trainer=debug", "trainer.max_epochs=3", "trainer.patience=2", "trainer.precision=bf16-mixed"),
    *("trainer.max_batches=3", "model.selection=each", "dataset.storage=disk", "dataset.main_history=click"),
    *("+dataset.histories.click.max_len=3", "+model.stages.main.loss.name=x", "trainer.threads=2", "seed=2"),
)


@pytest.mark.parametrize("override", UNREAD)
def test_what_it_does_not_read_does_not_name_the_run(compose: Any, override: str) -> None:
    plain, other = (reduced(compose("model=lightgbm", *more)) for more in ((), (override,)))
    assert config_hash(plain) == config_hash(other)
    assert run_directory(plain).parent.name == f"lightgbm-bce-{config_hash(plain)}"
    assert other["trainer"]["devices"] == 1


@pytest.mark.parametrize("override", ["model.num_leaves=7", "model.rounds=9", "model.categorical=true", "dataset.tasks=[click]"])
def test_what_it_reads_does(compose: Any, override: str) -> None:
    assert config_hash(reduced(compose("model=lightgbm"))) != config_hash(reduced(compose("model=lightgbm", override)))


@pytest.fixture
def add(compose: Any, dataset: Path, tmp_path: Path) -> Any:
    """add(plan, sweep, "model=lightgbm", …), as cli.py does with each composed job."""

    def add(plan: Plan, sweep: bool, *overrides: str) -> None:
        config = compose(*overrides) | {"data_dir": str(dataset.parent), "output_dir": str(tmp_path / "out")}
        cfg = OmegaConf.create(config)
        assert isinstance(cfg, DictConfig)
        plan.add(cfg, sweep, overrides)

    return add


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("loss=calibrated", "loss"),
        ("loss=bce", "loss"),
        ("loss.terms.bce.weights=[1,2]", "loss"),
        ("optimizer.lr=0.1", "optimizer.lr"),
        ("optimizer=adam", "optimizer"),
        ("step=plain", "step"),
        ("batch_size=64", "batch_size"),
        ("trainer.max_epochs=3", "trainer.max_epochs"),
        ("trainer.workers=0", "trainer.workers"),
        ("model.selection=each", "model.selection"),
        ("+model.stages.meta.batch_size=3", "model.stages"),
        ("dataset.main_history=null", "dataset.main_history"),
        ("dataset.storage=disk", "dataset.storage"),
        ("+loss/term@loss.terms.calibrator=calibrator", "loss"),
        ("loss/term@loss.terms.bce=focal", "loss"),
    ],
)
def test_by_name_it_is_refused_in_a_single_run(add: Any, override: str, key: str) -> None:
    loss = ("loss=bce",) if override.startswith("loss.") else ()
    with pytest.raises(SeqmtlError, match=rf"model=lightgbm does not read {key}\b.*leave it out .*-m"):
        add(Plan(), False, "model=lightgbm", *loss, override)


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=aitm",),
        ("experiment=demo", "seed=2"),
        ("trainer=debug",),
        ("trainer=gpu",),
        ("trainer.threads=1", "trainer.log_every=5", "trainer.progress=none"),
        ("model.num_leaves=7", "dataset.tasks=[click]", "debug=true", "launcher=local"),
    ],
)
def test_what_it_reads_or_what_names_none_of_it_is_not(add: Any, overrides: tuple[str, ...]) -> None:
    plan = Plan()
    add(plan, False, "model=lightgbm", *overrides)
    assert plan.jobs[0].run is not None
    assert plan.jobs[0].label.startswith("lightgbm/bce/seed=")


@pytest.mark.parametrize("override", ["trainer=ddp", "trainer.devices=2"])
def test_several_devices_are_refused_in_a_single_run_and_not_in_a_sweep(add: Any, override: str) -> None:
    with pytest.raises(SeqmtlError, match=r"model=lightgbm runs on the CPU, in one process.*trainer\.devices=1"):
        add(Plan(), False, "model=lightgbm", override)
    plan = Plan()
    add(plan, True, "model=lightgbm", override)
    assert not plan.jobs[0].error
    assert plan.jobs[0].config["trainer"]["devices"] == 1


def test_a_stage_of_another_models_is_left_out_in_a_sweep(add: Any) -> None:
    plan = Plan()
    add(plan, True, "model=lightgbm", "++model.stages.meta.step.alpha=0")
    assert not plan.jobs[0].error
    with pytest.raises(SeqmtlError, match=r"does not read model\.stages"):
        add(Plan(), False, "model=lightgbm", "++model.stages.meta.step.alpha=0")


def test_jobs_of_a_sweep_that_are_one_run_run_once(add: Any) -> None:
    plan = Plan()
    for loss in ("bce", "calibrated"):
        for model in ("shared_bottom", "lightgbm"):
            for seed in (1, 2):
                add(plan, True, f"model={model}", f"loss={loss}", f"seed={seed}")
    labels = [job.label for job in plan.jobs]
    assert not any(job.error for job in plan.jobs)
    assert sorted(labels) == sorted(
        f"{name}/seed={s}" for name in ("shared_bottom/bce", "shared_bottom/calibrated", "lightgbm/bce") for s in (1, 2)
    )
    assert plan.repeated == 2


def test_a_runner_that_cannot_be_found_is_told_in_words(add: Any) -> None:
    with pytest.raises(SeqmtlError, match=r"model\.runner: seqmtl\.boost\.nothing cannot be found"):
        add(Plan(), False, "model=lightgbm", "model.runner=seqmtl.boost.nothing")


def test_other_models_are_as_they_were(add: Any, compose: Any) -> None:
    plan = Plan()
    add(plan, False, "model=shared_bottom", "loss=bce", "batch_size=64", "trainer.max_epochs=3")
    config = plan.jobs[0].config
    assert config["batch_size"] == 64
    assert config["trainer"]["max_epochs"] == 3
    assert "optimizer" in config


@pytest.mark.slow
def test_a_single_run_and_a_sweep_through_the_command_line(tmp_path: Path, dataset: Path) -> None:
    small = ("model.rounds=5", "model.num_leaves=7")
    done = seqmtl(tmp_path, "model=lightgbm", *small, "trainer=debug")
    assert done.returncode == 0, done.stderr
    for word in ("lightgbm/bce/seed=1 on aliccp_sim", "validation AUC", "test LogLoss", "the run lies in"):
        assert word in done.stdout
    assert "finished before, nothing to do" in seqmtl(tmp_path, "model=lightgbm", *small).stdout
    refused = seqmtl(tmp_path, "model=lightgbm", "loss=calibrated", "batch_size=64")
    assert refused.returncode == 1
    assert "model=lightgbm does not read loss, batch_size" in refused.stderr
    words = ("-m", "model=shared_bottom,lightgbm", "loss=bce,calibrated", *SMALL)
    done = seqmtl(tmp_path, *words, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "3 jobs: 0 finished before, 3 to run, 0 refused; 1 left out, the same as one of these" in done.stdout
    assert "3 of 3 jobs finished" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("│ lightgbm/bce")]) == 1, done.stdout
    assert len(list((tmp_path / "outputs" / "aliccp_sim").glob("lightgbm-bce-*/seed=*"))) == 2
    again = seqmtl(tmp_path, *words)
    assert "3 jobs: 3 finished before, 0 to run, 0 refused; 1 left out" in again.stdout
