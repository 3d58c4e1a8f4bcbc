"""Presets are optional in the defaults list, so a wrong file name would be ignored in silence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from model_cases import CHAIN, Compose
from omegaconf import OmegaConf
from torch import nn

from seqmtl.build import build
from seqmtl.runs import config_hash
from seqmtl.shipped import bottoms

CONF = Path(__file__).parents[2] / "conf"
MODELS = {p.stem for p in (CONF / "model").glob("*.yaml")}
NEURAL = {p.stem for p in (CONF / "model").glob("*.yaml") if "\nrunner:" not in p.read_text()}
TRUNKS = {p.stem for p in (CONF / "model" / "trunk").glob("*.yaml")}
EXPERIMENTS = {p.stem for p in (CONF / "experiment").glob("*.yaml")}
READS_HISTORIES = {
    name
    for name in NEURAL
    if getattr(get_class(bottoms().get(name.partition("_wo_")[0], "torch.nn.Module")), "needs_histories", False)
}
DTRN = {"dtrn_tenrec": 1e-3, "dtrn_ecommerce": 1e-4}  # protocols of data with histories
ON_DMT = {"shared_bottom", "mmoe", "ple", "aitm"}  # the trunks of DTRN's Tables 4 and 7
TRUNK_PRESETS = sorted(p.stem for p in (CONF / "preset" / "trunk").glob("*.yaml"))
PRESETS = sorted(p.stem for p in (CONF / "preset").glob("*.yaml"))


def body(group: str, name: str) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    assert isinstance(content, dict)
    return content


def contains(whole: Any, some: Any) -> bool:
    if isinstance(some, dict):
        return isinstance(whole, dict) and all(k in whole and contains(whole[k], v) for k, v in some.items())
    return bool(whole == some)


def merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {k: merged(base[k], v) if k in base else v for k, v in over.items()}


def split(preset: str) -> tuple[str, str]:
    found = [(e, m) for e in EXPERIMENTS for m in MODELS if f"{e}_{m}" == preset]
    assert len(found) == 1, f"conf/preset/{preset}.yaml belongs to no experiment and model"
    return found[0]


@pytest.mark.parametrize("preset", [pytest.param(p, marks=[pytest.mark.slow] * (not p.endswith("_mmoe"))) for p in PRESETS])
def test_a_preset_is_reached(preset: str, compose: Compose) -> None:
    experiment, model = split(preset)
    content = body("preset", preset)
    config = compose(f"model={model}", f"experiment={experiment}")
    assert (CONF / "preset" / f"{preset}.yaml").read_text().startswith("# @package _global_\n")
    assert "name" not in content
    for base in content.pop("defaults", []):
        assert contains(config, merged(body("preset", base), content))
    assert contains(config, content)
    # Each key is one that the model's own parts have: a misspelt one would be added.
    assert contains(keys(compose(f"model={model}")), keys(content))


def keys(node: Any) -> Any:
    return {k: keys(v) for k, v in node.items()} if isinstance(node, dict) else None


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS - {"none"}))
def test_an_experiment_says_nothing_of_models(experiment: str, compose: Compose) -> None:
    content = body("experiment", experiment)
    content.pop("defaults", None)
    assert (CONF / "experiment" / f"{experiment}.yaml").read_text().startswith("# @package _global_\n")
    assert not {"model", "name"} & set(content)
    wanted = ON_DMT if experiment in DTRN else NEURAL - READS_HISTORIES
    assert {f"{experiment}_{model}" for model in wanted} <= set(PRESETS)
    plain = compose("model=mmoe")
    assert contains(keys(plain), keys(content))
    assert contains(compose("model=mmoe", f"experiment={experiment}"), content)


PROTOCOLS = {  # batch, width, bound of the embeddings, dropout of the model's own towers or experts
    "aitm": (2000, 5, None, [0.1, 0.3, 0.3]),
    "apem": (1024, 18, None, 0.0),
    "man": (2048, 5, 0.05, 0.0),
}


@pytest.mark.parametrize("experiment", PROTOCOLS)
def test_a_protocol_is_that_of_its_paper(experiment: str, compose: Compose) -> None:
    batch, dim, bound, dropout = PROTOCOLS[experiment]
    for model in sorted(NEURAL - READS_HISTORIES):
        config = compose(f"model={model}", f"experiment={experiment}")
        assert (config["batch_size"], config["model"]["dim"]) == (batch, dim), model
        own_bound = 0.05 if model.startswith("man") else None
        assert config["model"]["embedding_bound"] == (own_bound if bound is None else bound), model
        assert config["optimizer"]["lr"] == 1e-3
        assert config["optimizer"]["name"] == "adam"
        assert config["trainer"]["patience"] == 1
        assert config["model"]["selection"] == ("each" if model == "single_task" else "sum")
    for model in ("single_task", "omoe", "mmoe", "ple", "esmm", "aitm"):
        own = [0.1, 0.3, 0.3] if experiment == "man" and model in ("esmm", "aitm") else dropout  # "the original settings"
        assert compose(f"model={model}", f"experiment={experiment}")["model"]["trunk"]["dropout"] == own, model


@pytest.mark.slow
@pytest.mark.parametrize("experiment", DTRN)
def test_dtrns_protocol_is_one_epoch_and_its_trunks_have_dmts_sizes(experiment: str, compose: Compose) -> None:
    for model in sorted(ON_DMT | READS_HISTORIES):
        bottom = ["model/bottom=dmt"] if model in ON_DMT else []
        config = compose(f"model={model}", f"experiment={experiment}", *bottom)
        assert (config["batch_size"], config["model"]["dim"]) == (2048, 32), model
        assert config["trainer"]["max_epochs"] == 1
        assert config["optimizer"]["lr"] == DTRN[experiment]
        assert config["optimizer"]["decay"] == []
        trunk = config["model"]["trunk"]
        assert trunk.get("dropout", 0.0) in (0.0, [0.0, 0.0, 0.0]), model
        if trunk["name"] != "m2m":
            assert trunk.get("dims", trunk.get("levels", [None])[0]) == [512, 256, 128], model
            assert trunk.get("tower_dims", [32]) == [32], model
    trunk = compose("model=dtrn", f"experiment={experiment}")["model"]["trunk"]["name"]
    assert trunk == {"dtrn_ecommerce": "aitm", "dtrn_tenrec": "mmoe"}[experiment]


@pytest.mark.parametrize("preset", TRUNK_PRESETS)
def test_a_preset_of_a_trunk_is_reached_from_any_model_and_says_what_the_trunk_has(preset: str, compose: Compose) -> None:
    found = [(e, t) for e in EXPERIMENTS for t in TRUNKS if f"{e}_{t}" == preset]
    assert len(found) == 1, f"conf/preset/trunk/{preset}.yaml belongs to no experiment and trunk"
    ((experiment, trunk),) = found
    content = body("preset/trunk", preset)
    for base in content.pop("defaults", []):
        if base != "_self_":
            content = merged(body("preset/trunk", base), content)
    assert contains(compose("model=dmt", f"model/trunk={trunk}", f"experiment={experiment}")["model"]["trunk"], content)
    assert contains(keys(compose("model=dmt", f"model/trunk={trunk}")["model"]["trunk"]), keys(content))


def test_mans_decay_is_on_all_of_the_model_and_not_on_the_tasks_uncertainties(compose: Compose) -> None:
    config = compose("model=man", "experiment=man")
    (rule,) = config["optimizer"]["decay"]
    assert rule["value"] == 1e-6
    assert re.search(rule["match"], "model.embedding.weight")
    assert re.search(rule["match"], "model.head.linear.bias")
    assert not re.search(rule["match"], "loss.terms.uncertainty.s")
    assert compose("model=apem", "experiment=apem")["optimizer"]["decay"] == []


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("aitm", {"embedding.weight", "trunk.ait.0.w_1.weight", "trunk.ait.0.w_2.weight", "trunk.ait.0.w_3.weight"}),
        ("mmoe", {"embedding.weight"}),
        ("single_task", {"models.0.embedding.weight", "models.1.embedding.weight", "models.2.embedding.weight"}),
    ],
)
def test_aitms_decay_is_on_embeddings_and_the_three_matrices(model: str, wanted: set[str], compose: Compose) -> None:
    config = compose(f"model={model}", "experiment=aitm")
    (rule,) = config["optimizer"]["decay"]
    assert rule["value"] == 1e-6
    with torch.device("meta"):
        built: nn.Module = build(config["model"], schema=CHAIN)
    # The trainer sees the parameters under "model.".
    assert {name for name, _ in built.named_parameters() if re.search(rule["match"], f"model.{name}")} == wanted


def test_the_papers_loss_comes_with_the_model(compose: Compose) -> None:
    own = {"aitm": "calibrated", "escm2": "escm2_ipw", "smallheads": "auxiliary"}
    own |= dict.fromkeys(("apem", "apem_wo_asrg", "apem_wo_ps"), "dependence")
    own |= dict.fromkeys(("man", "man_wo_meta", "man_wo_att", "man_wo_meta_att"), "uncertainty")
    assert {m: compose(f"model={m}")["loss"]["name"] for m in NEURAL} == dict.fromkeys(NEURAL, "bce") | own
    assert compose("model=apem", "loss=bce")["loss"]["name"] == "bce"


@pytest.mark.parametrize("model", ["dmt", "dtrn", "dtrn_wo_tim", "dtrn_wo_trm"])
def test_with_aitms_trunk_comes_aitms_calibrator_along_the_same_graph(model: str, compose: Compose) -> None:
    config = compose(f"model={model}", "model/trunk=aitm", "experiment=dtrn_tenrec")
    assert config["loss"]["name"] == "calibrated"
    assert config["loss"]["terms"]["calibrator"]["alpha"] == 0.6
    assert config["loss"]["terms"]["calibrator"]["parents"] == config["model"]["trunk"]["parents"] == [None, 0, 0, 0]
    assert compose(f"model={model}", "model/trunk=aitm", "loss=bce")["loss"]["name"] == "bce"
    assert compose(f"model={model}", "model/trunk=ple")["loss"]["name"] == "bce"


def test_other_things_of_the_papers_come_with_the_model(compose: Compose) -> None:
    assert compose("model=single_task")["model"]["selection"] == "each"
    assert compose("model=mmoe")["model"]["selection"] == "sum"
    for path in (CONF / "loss").glob("*.yaml"):
        assert compose("model=aitm", f"loss={path.stem}")["loss"]["name"] == path.stem
    assert compose("model=aitm", "loss.terms.calibrator.alpha=0.3")["loss"]["terms"]["calibrator"]["alpha"] == 0.3


@pytest.mark.parametrize("kind", ["", "bottom", "trunk", "head"])
def test_every_model_file_has_its_name_and_is_a_partial(kind: str, compose: Compose) -> None:
    for path in (CONF / "model" / kind).glob("*.yaml"):
        config = compose(f"model={path.stem}")["model"] if not kind else body(f"model/{kind}", path.stem)
        assert config["name"] == path.stem
        assert config.get("runner") or config["_partial_"] is True


def test_where_no_task_follows_another_the_dataset_says_who_passes_on_to_whom(compose: Compose) -> None:
    wanted = [None, 0, 0, 0]
    for model in ("aitm", "man"):
        assert compose(f"model={model}", "dataset=tenrec_sim")["model"]["trunk"]["parents"] == wanted
        assert compose(f"model={model}")["model"]["trunk"]["parents"] is None, "those of the data"
    assert compose("model=aitm", "dataset=tenrec_sim")["loss"]["terms"]["calibrator"]["parents"] == wanted
    assert compose("model=apem", "dataset=tenrec_sim")["loss"]["terms"]["dependence"]["parents"] == wanted
    # A product of probabilities along a path would be wrong where a follow needs no click.
    assert compose("model=esmm", "dataset=tenrec_sim")["model"]["head"]["parents"] is None
    assert config_hash(compose("model=mmoe", "dataset=tenrec_sim")) == config_hash(
        compose("model=mmoe", "dataset=tenrec_sim", "dataset.transfer=null")
    )
