"""Model, loss and step of every stage are tried before the first is trained; what a stage does not hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seqmtl import job
from seqmtl.build import check_pairs
from seqmtl.errors import SeqmtlError

VARIANTS = ("man_wo_meta", "man_wo_att", "man_wo_meta_att", "apem_wo_asrg", "apem_wo_ps", "apem_wo_dependence")


def untrained(run_dir: Path) -> bool:
    return not list(run_dir.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model=man", "dataset.tasks=[click]"), "click is alone"),
        (("model=man", "model.trunk.direction=up"), "direction=up is unknown"),
        (("model=man", "+model.stages.main.optimizer.freeze=cgc"), r"must be a list of regexes: optimizer\.freeze=\[cgc\]"),
        (("model=man", "+model.stages.main.optimizer.freeze=[embeding]"), "'embeding' matches no parameter"),
        (("model=man", "+model.stages.main.optimizer.freeze=['(']"), r"'\(' is no regex"),
        (("model=man", "+model.stages.main.optimizer.freeze=[.]"), "leaves no parameter to train"),
        (("model=man", "optimizer.decay=[{match: attention, value: 1e-6}]"), "'attention' matches no parameter"),
        (("model=man", "optimizer.decay=1e-6"), "must be a list of rules"),
        (("model=aitm", "optimizer.lr=-1"), "cannot build 'adam': .*learning rate"),
        (("model=aitm", "optimizer=exact_lazy_adam", "optimizer.decay=[{match: embedding, value: 1e-6}]"), "use optimizer=adam"),
        (("model=man", "optimizer=exact_lazy_adam", "optimizer.betas=[0.9,0.5]"), r"betas\[0\]² must be well below"),
        (("model=escm2", "loss=bce", "+loss/term@loss.terms.more=escm2_dr"), "needs imputation"),
        (("model=escm2", "loss=escm2_dr", "model.head.imputation=null"), "needs imputation"),
    ],
)
def test_what_does_not_fit_is_told_before_any_stage_is_trained(plan: Any, overrides: tuple[str, ...], words: str) -> None:
    run_dir = plan(*overrides)
    with pytest.raises(SeqmtlError, match=words):
        job.run(run_dir)
    assert untrained(run_dir)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+model.stages.meta.step=maml", r"takes the content: \+step@model\.stages\.NAME\.step=maml"),
        ("+model.stages.meta.loss=bce", "a stage sets loss=bce"),
        ("+model.stages.meta.step=null", "a stage sets step=None"),
        ("+model.stages.meta.optimizer=adam", "a stage sets optimizer=adam"),
        ("+model.stages.meta.trainer=debug", "a stage sets trainer=debug"),
        ("+model.stages.meta=maml", "must be a mapping of what the stage sets"),
        ("model.stages=null", "main is always one of them"),
        ("model.stages.main=null", "main is always one of them"),
    ],
)
def test_a_stage_written_wrongly_is_told_in_words(compose: Any, override: str, words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        check_pairs(compose("model=mmoe", override))


def test_frozen_parameters_have_rules_too() -> None:
    """A rule of the protocol is not misspelt because a stage trains nothing that it names."""
    from seqmtl.parameters import freeze, parameter_groups

    model = torch.nn.ModuleDict({"embedding": torch.nn.Linear(2, 2), "tower": torch.nn.Linear(2, 2)})
    freeze(model.named_parameters(), ["embedding"])
    rules = [{"match": "embedding", "value": 1e-6}, {"match": "tower.weight", "value": 0.1}, {"match": "tower", "value": 0.2}]
    groups = {group["weight_decay"]: group["params"] for group in parameter_groups(model.named_parameters(), rules)}
    assert {decay: [p.shape for p in some] for decay, some in groups.items()} == {0.1: [(2, 2)], 0.2: [(2,)]}


@pytest.mark.parametrize("step", ["dwa", "gradnorm"])
def test_a_loss_that_weighs_the_tasks_is_not_weighed_once_more_by_ratios(compose: Any, step: str) -> None:
    with pytest.raises(SeqmtlError, match=f"loss=bce step={step}"):
        check_pairs(compose("model=man", f"step={step}"))
    check_pairs(compose("model=man", f"step={step}", "loss=bce"))
    check_pairs(compose("model=man", "step=pcgrad"))


def test_self_normalized_weights_need_one_process(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.stage import make_parts
    from seqmtl.types import Field, Schema, Task

    config = job.read_config(plan("model=escm2", "loss.terms.escm2.self_normalize=true"))
    schema = Schema((Field("a", 2),), (Task("click"), Task("purchase", "click")))
    make_parts(config, schema, 1)
    with pytest.raises(SeqmtlError, match=r"trainer\.devices=1"):
        make_parts(config, schema, 2)


def test_rows_that_are_caught_up_need_one_process(compose: Any) -> None:
    from seqmtl.stage import try_parts
    from seqmtl.types import Field, Schema, Task

    config = compose("model=mmoe", "optimizer=exact_lazy_adam")
    schema = Schema((Field("a", 2),), (Task("click"), Task("purchase", "click")))
    try_parts(config, schema, 1)
    with pytest.raises(SeqmtlError, match=r"not for 2 ranks.*use optimizer=adam"):
        try_parts(config, schema, 2)


def test_a_steps_state_stays_in_its_stage(plan: Any) -> None:
    """GradNorm keeps the first losses and the weights: those of another stage's loss would mean nothing."""
    weighted = ("+loss@model.stages.pre.loss=bce", "model.stages.pre.loss.terms.bce.weights=[100,1]")
    run_dir = plan("model=mmoe", "step=gradnorm", "+step@model.stages.pre.step=gradnorm", *weighted, "trainer.max_epochs=1")
    job.run(run_dir)
    pre, main = (torch.load(run_dir / place / "best.ckpt", weights_only=True)["state_dict"] for place in ("pre", "."))
    assert pre["step.initial"][0] > 50
    assert main["step.initial"].max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("model", VARIANTS)
def test_an_ablation_trains(plan: Any, model: str) -> None:
    metrics = job.run(plan(f"model={model}"))
    assert metrics["test/auc/click"] is not None
    assert ("meta/val/auc/click" in metrics) == (model == "man_wo_att")
