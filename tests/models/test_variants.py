"""MAN's stages, and the ablations of the papers' tables as models: what each changes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, Compose, make_batch, make_model
from torch import nn

from seqmtl.build import build, check_pairs, stage_config, stages
from seqmtl.errors import SeqmtlError
from seqmtl.types import Field, Schema, Task

FUNNEL = Schema(tuple(Field(f"f{i}", 9) for i in range(18)), (Task("click"), Task("purchase", "click")))
META = {"stages.meta": None}
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {  # model, what is different, loss
    "man_wo_meta": ("man", META, "uncertainty"),
    "man_wo_att": ("man", {"trunk.attention": False}, "uncertainty"),
    "man_wo_meta_att": ("man", {"trunk.attention": False} | META, "uncertainty"),
    "apem_wo_asrg": ("apem", {"bottom.asrg": "self_attention"}, "dependence"),
    "apem_wo_ps": ("apem", {"bottom.pooling": "mean", "trunk.dims": [64, 32]}, "dependence"),
    "apem_wo_dependence": ("apem", {}, "bce"),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def changes(before: Any, after: Any, at: str = "") -> dict[str, Any]:
    if isinstance(before, dict) and isinstance(after, dict):
        found: dict[str, Any] = {}
        for key in {**before, **after}:
            found |= changes(before.get(key, "absent"), after.get(key, "absent"), f"{at}.{key}" if at else key)
        return found
    return {} if before == after else {at: after}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_differs_in_what_its_name_says(name: str, compose: Compose) -> None:
    base, wanted, loss = VARIANTS[name]
    before, after = compose(f"model={base}"), compose(f"model={name}")
    assert changes(before["model"], after["model"]) == {"name": name} | wanted
    assert after["loss"]["name"] == loss
    assert changes(before, after).keys() - {"loss"} >= {"model.name"}
    check_pairs(after)
    make_model(compose, CHAIN, f"model={name}")(make_batch(CHAIN))


def test_the_dependence_loss_is_all_that_its_ablation_lacks(compose: Compose) -> None:
    with_it, without = compose("model=apem")["loss"]["terms"], compose("model=apem_wo_dependence")["loss"]["terms"]
    assert {name: term for name, term in with_it.items() if name != "dependence"} == without
    assert compose("model=man_wo_att")["loss"] == compose("model=man")["loss"]


def plan(compose: Compose, *overrides: str) -> dict[str, dict[str, Any]]:
    """{stage: its config}."""
    config = compose(*overrides)
    return {name: stage_config(config, changes) for name, changes in stages(config).items()}


def test_man_is_meta_learnt_without_attention_then_trained_with_it(compose: Compose) -> None:
    found = plan(compose, "model=man")
    assert list(found) == ["meta", "main"]
    meta, main = found.values()
    assert (meta["step"]["name"], meta["loss"]["name"]) == ("maml", "bce")
    assert meta["loss"]["terms"].keys() == {"bce"}
    assert meta["loss"]["terms"]["bce"]["reduction"] == "mean"
    assert (main["step"]["name"], main["loss"]["name"]) == ("plain", "uncertainty")
    assert changes(meta["model"], main["model"]) == {"trunk.attention": True}
    assert changes(meta, main).keys() - {"model.trunk.attention"} <= {k for k in changes(meta, main) if k[:4] in ("loss", "step")}
    # A replaced part keeps nothing of what it replaces.
    assert meta["step"].keys() == compose("model=mmoe", "step=maml")["step"].keys()


def test_what_is_said_on_the_command_line_reaches_its_stage(compose: Compose) -> None:
    found = plan(compose, "model=man", "loss=bce", "model.stages.meta.step.alpha=0", "model.trunk.shared=2", "optimizer.lr=0.01")
    assert found["main"]["loss"]["name"] == "bce"
    assert found["main"]["loss"]["terms"]["bce"]["reduction"] == "sum"
    assert found["meta"]["loss"]["terms"]["bce"]["reduction"] == "mean"
    assert found["meta"]["step"]["alpha"] == 0
    assert {stage["model"]["trunk"]["shared"] for stage in found.values()} == {2}
    assert {stage["optimizer"]["lr"] for stage in found.values()} == {0.01}
    other = plan(compose, "model=man", "loss@model.stages.meta.loss=focal")
    assert other["meta"]["loss"] == compose("model=mmoe", "loss=focal")["loss"]
    assert other["main"]["loss"]["name"] == "uncertainty"
    frozen = plan(compose, "model=man", "+model.stages.main.optimizer.freeze=[embedding,cgc]")
    assert [stage["optimizer"]["freeze"] for stage in frozen.values()] == [[], ["embedding", "cgc"]]


@pytest.mark.parametrize(
    ("overrides", "names", "attention"),
    [
        (["model=man_wo_meta"], ["main"], [True]),
        (["model=man_wo_att"], ["meta", "main"], [False, False]),
        (["model=man_wo_meta_att"], ["main"], [False]),
        (["model=man", "model.stages.meta=null"], ["main"], [True]),
    ],
)
def test_stages_of_the_ablations(overrides: list[str], names: list[str], attention: list[bool], compose: Compose) -> None:
    found = plan(compose, *overrides)
    assert list(found) == names
    assert [stage["model"]["trunk"]["attention"] for stage in found.values()] == attention
    assert found["main"]["step"]["name"] == "plain"


@pytest.mark.parametrize("name", ["man", "man_wo_att"])
def test_the_weights_of_the_meta_stage_are_taken_by_name(name: str, compose: Compose) -> None:
    meta, main = (build(stage["model"], schema=CHAIN) for stage in plan(compose, f"model={name}").values())
    taken, own = meta.state_dict(), main.state_dict()
    fresh = {n for n in own if n not in taken or own[n].shape != taken[n].shape}
    assert fresh == {n for n in own if n.startswith("trunk.attention.")}
    assert bool(fresh) == (name == "man")
    assert not taken.keys() - own.keys()


def test_embeddings_start_uniform(compose: Compose) -> None:
    weight = make_model(compose, CHAIN, "model=man").embedding.weight
    assert 0.045 < weight.abs().max() <= 0.05
    assert make_model(compose, CHAIN, "model=man", "model.embedding_bound=null").embedding.weight.abs().max() < 0.045


def test_a_trunk_without_attention_cannot_run_mans_meta_stage(compose: Compose) -> None:
    with pytest.raises(SeqmtlError, match="a stage sets 'attention', which the config does not have"):
        check_pairs(compose("model=man", "model/trunk=ple"))
    check_pairs(compose("model=man", "model/trunk=ple", "model.stages.meta=null"))


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["model=man"], 720_306),
        (["model=man", "model.trunk.tower_dims=[128,64,32]"], 735_762),
        (["model=man", "model.dim=18"], 1_442_898),
        (["model=man", "model.trunk.tower_dims=[128,64,32]", "model.dim=18"], 1_458_354),
        (["model=man_wo_att"], 720_306 - (32 * 32 + 32) - 3 * 32 * 32),
        (["model=apem_wo_dependence"], 261_586),
        # For each of 4 layers: query, key, value and output, a norm, and for each task what the pattern selectors have.
        (["model=apem_wo_asrg"], 4 * (4 * 18**2 + 2 * 18 + 2 * (18 + 3 * 18**2 + 2 * 18)) + 2 * (18 * 64 + 64 + 65)),
        # The pattern selectors go, and each tower has a second layer.
        (["model=apem_wo_ps"], 261_586 - 4 * 2 * (18 + 3 * 18**2 + 2 * 18) + 2 * (64 * 32 + 32 - 32)),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else str(x),
)
def test_dense_parameters(compose: Compose, overrides: list[str], wanted: int) -> None:
    with torch.device("meta"):
        model: nn.Module = build(compose(*overrides, "loss=bce")["model"], schema=FUNNEL)
    assert sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name) == wanted
