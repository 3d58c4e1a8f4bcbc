"""A training of several stages, as meta-learning before an ordinary one: what passes on, what it leaves, and exact resume."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from seqmtl import job
from seqmtl.build import stage_config, stages
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run

META = "+step@model.stages.meta.step=maml"  # meta-learning before any model


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def mlflow_history(run_dir: Path, *names: str) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The only MLflow run, and points of some metrics."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    points = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in names}
    return run, points


@pytest.mark.parametrize("model", ["mmoe", "apem", "single_task"])
def test_any_model_takes_a_stage_of_meta_learning_from_the_command_line(compose: Any, model: str) -> None:
    config = compose(f"model={model}", META, "model.stages.meta.step.alpha=0.01", "+model.stages.meta.trainer.max_epochs=2")
    plan = stages(config)
    assert list(plan) == ["meta", "main"]
    meta, main = (stage_config(config, overrides) for overrides in plan.values())
    assert meta["step"]["_target_"] == "seqmtl.steps.maml.MAML"
    assert meta["step"]["alpha"] == 0.01
    assert meta["trainer"]["max_epochs"] == 2
    assert main["step"]["name"] == "plain"
    assert meta["loss"] == main["loss"] == config["loss"]


def test_man_is_trained_in_two_stages(plan: Any) -> None:
    run_dir = plan("model=man", "trainer.log_every=2")
    metrics = job.run(run_dir)
    assert {
        "meta/val/auc/click",
        "meta/train/loss",
        "meta/train/extra/support_loss",
        "val/auc/click",
        "train/loss",
    } <= metrics.keys()
    assert not {name for name in metrics if name.startswith("meta/test")}
    meta, main = (torch.load(run_dir / place / "best.ckpt", weights_only=True) for place in ("meta", "."))
    assert meta["config"]["step"]["name"] == "maml"
    assert main["config"]["step"]["name"] == "plain"
    new = {name for name in main["state_dict"] if name not in meta["state_dict"]}
    assert new, "the attention comes with the second stage"
    assert all(".attention." in name or name.startswith("loss.") for name in new)
    assert metrics["params"] == sum(
        v.numel() for k, v in main["state_dict"].items() if k.startswith("model.") and v.is_floating_point()
    )
    # 600 rows: 2 minibatches of 50 to a step of the first stage, one to a step of the second; 3 epochs each.
    names = ("stage", "meta/val/auc/click", "val/auc/click", "meta/train/loss", "train/loss", "meta/epoch_seconds", "epoch_seconds")
    run, points = mlflow_history(run_dir, *names)
    assert run.info.status == "FINISHED"
    assert points["stage"] == [(0, 1.0), (18, 2.0)]
    assert [step for step, _ in points["meta/val/auc/click"]] == [6, 12, 18]
    assert [step for step, _ in points["val/auc/click"]] == [12, 24, 36]
    assert len(points["meta/train/loss"]) == 9
    assert len(points["train/loss"]) == 18
    assert len(points["meta/epoch_seconds"]) == len(points["epoch_seconds"]) == 3
    times = Run(run_dir).status()["times"]
    assert {"meta/epoch_seconds", "meta/train_rows_per_second", "epoch_seconds", "train_rows_per_second", "test_seconds"} == set(
        times
    )


@pytest.mark.slow
def test_the_second_stage_starts_from_the_best_weights_of_the_first(plan: Any) -> None:
    """With a learning rate of 0 it ends there too; so it does where a part follows the steps, as APEM's gamma."""
    options = ("model=apem", META, "+model.stages.main.optimizer.lr=0.0", "model.bottom.gamma.steps_to_floor=30")
    run_dir = plan(*options, "+model.stages.meta.optimizer.lr=0.05", "trainer.max_epochs=2")
    metrics = job.run(run_dir)
    meta, main = (torch.load(run_dir / place / "best.ckpt", weights_only=True) for place in ("meta", "."))
    assert all(torch.equal(v, main["state_dict"][k]) for k, v in meta["state_dict"].items() if not k.endswith(".step"))
    assert main["state_dict"]["model.bottom.step"] > meta["state_dict"]["model.bottom.step"], "gamma goes on"
    assert metrics["meta/train/loss"] is not None


def test_frozen_embeddings_keep_the_first_stages_values(plan: Any) -> None:
    run_dir = plan("model=mmoe", META, "+model.stages.main.optimizer.freeze=[embedding]", "trainer.max_epochs=1")
    job.run(run_dir)
    meta, main = (torch.load(run_dir / place / "best.ckpt", weights_only=True)["state_dict"] for place in ("meta", "."))
    assert torch.equal(meta["model.embedding.weight"], main["model.embedding.weight"])
    assert not torch.equal(meta["model.trunk.gates.weight"], main["model.trunk.gates.weight"])


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the job may tidy up."""


@pytest.mark.slow
def test_a_job_cut_off_in_any_stage_ends_as_an_undisturbed_one(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and drawn tasks, too; what a stage has trained is not trained again."""
    from seqmtl.lit import Lit

    options = ("model=man", "model.trunk.dropout=0.2", "trainer.checkpoint_every=5", "trainer.log_every=3", "trainer.max_epochs=2")
    options += ("model.stages.meta.step.task_by=feature:hour", "model.stages.meta.step.alpha=0.5")
    whole = plan(*options, name="whole")
    expected = job.run(whole)
    cut = plan(*options, name="cut")
    real = Lit.training_step
    monkeypatch.setattr(job, "_failed", lambda *_: None)
    trained: list[str] = []
    for stage, at in (("meta", 8), ("main", 1), ("main", 17)):
        trained.clear()

        def step(self: Any, batch: Any, batch_idx: int, stage: str = stage, at: int = at) -> None:
            here = "meta" if type(self.step).__name__ == "MAML" else "main"
            if (here, self.global_step) == (stage, at):
                raise Killed
            trained.append(here)
            real(self, batch, batch_idx)

        monkeypatch.setattr(Lit, "training_step", step)
        with pytest.raises(Killed):
            job.run(cut)
        assert Run(cut).status()["state"] == "running"
        assert ("meta" in trained) == (at != 17), "what was finished before is not repeated"
    monkeypatch.setattr(Lit, "training_step", real)
    assert job.run(cut) == expected
    assert (cut / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert (cut / "test_logits.npy").read_bytes() == (whole / "test_logits.npy").read_bytes()
    run, points = mlflow_history(cut, "stage", "meta/val/auc/click", "val/auc/click", "meta/train/loss", "train/loss")
    assert run.info.status == "FINISHED"
    assert points == mlflow_history(whole, *points)[1], "one run, and no point twice"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "call", "after"),
    [
        ("seqmtl.checkpoint.Selection.on_validation_end", 2, True),
        ("seqmtl.checkpoint.LastCheckpoint._save", 2, False),
        ("seqmtl.checkpoint.load_weights", 1, False),
        ("seqmtl.job.write_file", 1, True),
        ("seqmtl.stage.Stage.start_from", 1, True),
        ("seqmtl.checkpoint.LastCheckpoint._save", 3, True),
    ],
)
def test_a_job_cut_off_between_the_stages(plan: Any, where: str, call: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the first of two stages and at the start of the second, each of two epochs."""
    options = ("model=mmoe", META, "trainer.max_epochs=2")
    expected = job.run(plan(*options, name="whole"))
    cut = plan(*options, name="cut")
    module, _, name = where.rpartition(".")
    real = getattr(pkgutil.resolve_name(module), name)
    calls = []

    def die(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        fatal = len(calls) == call
        if not fatal or after:
            result = real(*args, **kwargs)
        if fatal:
            raise Killed
        return result

    with monkeypatch.context() as patched:
        patched.setattr(where, die)
        patched.setattr(job, "_failed", lambda *_: None)
        with pytest.raises(Killed):
            job.run(cut)
    assert job.run(cut) == expected
    run, points = mlflow_history(cut, "stage", "meta/val/auc/click", "val/auc/click")
    assert run.info.status == "FINISHED"
    assert [len(found) for found in points.values()] == [2, 2, 2]


def test_a_finished_stage_leaves_no_data_in_memory(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may take half of the memory: two stages' at once would not fit."""
    import weakref

    from seqmtl import stage

    alive: list[Any] = []
    seen: list[int] = []
    real_init, real_fit = stage.Stage.__init__, stage.Stage.fit

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real_init(self, *args, **kwargs)
        alive.append(weakref.ref(self.data))

    def fit(self: Any) -> None:
        seen.append(sum(ref() is not None for ref in alive))
        real_fit(self)

    monkeypatch.setattr(stage.Stage, "__init__", init)
    monkeypatch.setattr(stage.Stage, "fit", fit)
    job.run(plan("model=mmoe", META, "trainer.max_epochs=1"))
    assert seen == [1, 1]


def test_meta_learning_alone(plan: Any) -> None:
    """As the step of the only stage, and of a sum over labels."""
    metrics = job.run(plan("model=aitm", "step=maml", "step.task_by=label"))
    assert {"train/extra/support_loss", "test/auc/purchase"} <= metrics.keys()
    with pytest.raises(SeqmtlError, match="no single-valued field has this name; they are user, item, hour"):
        job.run(plan("model=aitm", "step=maml", "step.task_by=feature:colour", name="wrong"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+model.stages.meta.trainer.max_epochs=0", "model.stages.meta: trainer.max_epochs must be an integer of at least 1"),
        ("+model.stages.meta.trainer.precision=8", "model.stages.meta: trainer.precision must be one of"),
        ("+model.stages.meta.colour=1", "a stage sets 'colour', which the config does not have"),
        ("+model.stages.test.batch_size=5", "a stage cannot be named 'test'"),
        ("+model.stages.warm-up.batch_size=5", "a stage cannot be named 'warm-up'"),
        ("+model.stages.warm=5", "model.stages.warm=5 must be a mapping"),
        ("+model.stages.meta.dataset.tasks=[click]", "model.stages.meta sets dataset.tasks"),
        ("+model.stages.meta.trainer.devices=2", "model.stages.meta sets trainer.devices"),
    ],
)
def test_what_a_stage_cannot_be_told_is_refused_before_anything_runs(plan: Any, override: str, says: str) -> None:
    from seqmtl.plan import check

    with pytest.raises(SeqmtlError, match=says):
        check(job.read_config(plan("model=mmoe", META, override)))


def test_a_stage_that_hands_nothing_over_is_told(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQMTL_ALLOW", __name__)
    run_dir = plan("model=mmoe", META)
    config = job.read_config(run_dir)
    config["model"]["stages"]["meta"]["model"] = {"_target_": f"{__name__}.Other"}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SeqmtlError, match="no weights of the stage before fit into this one"):
        job.run(run_dir)


class Other(torch.nn.Module):
    """Another model altogether."""

    def __init__(self, schema: Any, **_: Any) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(len(schema.tasks)))

    def forward(self, batch: Any) -> Any:
        from seqmtl.types import Output

        return Output(self.bias.expand(len(batch), -1))
