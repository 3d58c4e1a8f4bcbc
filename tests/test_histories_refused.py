"""A model of histories meets data without them: refused before anything is read, with what works instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model_cases import CHAIN, make_batch, make_model

from seqmtl.build import check_pairs
from seqmtl.data.meta import Meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema

Compose = Callable[..., dict[str, Any]]
CONF = Path(__file__).parents[1] / "conf"
MODELS = sorted(p.stem for p in (CONF / "model").glob("*.yaml") if "\nrunner:" not in p.read_text())
DATASETS = sorted(p.stem for p in (CONF / "dataset").glob("*.yaml"))
SAYS = r"model=(\w+) model/bottom=(\w+) reads histories .*, and dataset=(\w+) has none\. Datasets with histories: ([\w, ]+);"


def refusal(config: dict[str, Any]) -> re.Match[str] | None:
    """What it is refused with for the want of histories, None where it is not."""
    try:
        check_pairs(config)
    except SeqmtlError as e:
        said = str(e)
    else:
        return None
    found = re.match(SAYS + r".* model/bottom=flat, and as they are the models ([\w, ]+)$", said)
    assert found, said
    return found


def reads(compose: Compose, model: str) -> bool:
    """Found by trying: whether a model of three histories asks for any."""
    return bool(getattr(make_model(compose, CHAIN, f"model={model}"), "histories", ()))


SOME = (
    "din",
    "dtrn",
    "dtrn_wo_tim",
    "ple",
    "single_task",
)  # a reader, TRM around one, a variant, one without, one without a bottom


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] * (m not in SOME)) for m in MODELS])
def test_refused_are_those_models_that_read_histories_and_the_others_are_named(model: str, compose: Compose) -> None:
    found = refusal(compose(f"model={model}"))
    assert (found is not None) is reads(compose, model)
    if found:
        assert found[1] == model
        assert found[3] == "aliccp_sim"
    # A variant of another model need not be named, nor Single-Task, which has no bottom.
    needed = "- bottom:" in (CONF / "model" / f"{model}.yaml").read_text()
    example = refusal(compose("model=din"))
    assert example
    named = model in example[5].split(", ")
    assert (found is None) if named else (found or not needed)


def test_every_dataset_with_histories_is_named(compose: Compose) -> None:
    config = compose("model=din")
    found = refusal(config)
    assert found
    assert found[2] == "din"
    datasets = found[4].split(", ")
    assert {"tenrec_sim", "ecommerce_sim", "kuairand", "tenrec"} <= set(datasets)
    for name in DATASETS:
        dataset = yaml.safe_load((CONF / "dataset" / f"{name}.yaml").read_text())
        assert (refusal(config | {"dataset": config["dataset"] | dataset}) is None) is (name in datasets), name


def test_a_bottom_by_name_is_refused_and_taken(compose: Compose) -> None:
    found = refusal(compose("model=mmoe", "model/bottom=tim"))
    assert found
    assert (found[1], found[2]) == ("mmoe", "tim")
    assert refusal(compose("model=din", "model/bottom=flat")) is None
    assert refusal(compose("model=mmoe", "model/bottom=tim") | {"dataset": compose("dataset=tenrec_sim")["dataset"]}) is None


def test_a_bottom_around_another_reads_what_that_one_reads(compose: Compose) -> None:
    around = ("model=mmoe", "model/bottom=trm")
    found = refusal(compose(*around))
    assert found
    assert found[2] == "trm"
    flat = (*around, "model/bottom@model.bottom.inner=flat")
    assert refusal(compose(*flat)) is None
    model = make_model(compose, CHAIN, *flat)
    assert model.histories == ()
    assert torch.isfinite(model(make_batch(CHAIN)).logits).all()


def test_histories_that_a_user_takes_away(compose: Compose) -> None:
    config = compose("model=dmt") | {"dataset": compose("dataset=tenrec_sim")["dataset"]}
    histories = config["dataset"]["histories"]
    for name in ("click", "follow", "like", "share"):
        del histories[name]
        assert refusal(config) is None
    del histories["negative"]
    found = refusal(config)
    assert found
    assert found[3] == "tenrec_sim"


def tenrec_meta(config: dict[str, Any]) -> Meta:
    fields = dict.fromkeys(config["dataset"]["prepare"]["fields"], 30)
    histories = {name: {"field": "item_id", "items": 9} for name in config["dataset"]["histories"]}
    parents = config["dataset"]["prepare"]["parents"]
    return Meta(version=1, fields=fields, parents=parents, rows={"train": 1, "valid": 1, "test": 1}, histories=histories)


def schema_of(compose: Compose, **options: Any) -> Schema:
    config = compose("dataset=tenrec_sim")
    meta = tenrec_meta(config)
    config["dataset"].update(options)
    return chosen_schema(config, meta)


@pytest.mark.parametrize("name", ["youtubenet", "din", "dien", "bst"])
def test_a_model_of_one_history_wants_to_know_which(name: str, compose: Compose) -> None:
    with pytest.raises(SeqmtlError, match=r"reads one history, and the data have click, .*dataset\.main_history=click"):
        make_model(compose, schema_of(compose, main_history=None), f"model={name}")
    for main in ("click", "share"):
        assert make_model(compose, schema_of(compose, main_history=main), f"model={name}").histories == (main,)
    alone = {"like": {"max_len": 3}}
    model = make_model(compose, schema_of(compose, main_history=None, histories=alone), f"model={name}")
    assert model.histories == ("like",)


def test_a_main_history_that_is_not_read(compose: Compose) -> None:
    with pytest.raises(SeqmtlError, match=r"dataset\.main_history=watch is none of dataset\.histories \(click, "):
        schema_of(compose, main_history="watch")


def test_a_history_of_a_field_that_is_left_out(compose: Compose) -> None:
    schema = schema_of(compose, fields=["user_id", "gender"])
    with pytest.raises(
        SeqmtlError, match=r"history 'click' is made of field 'item_id', which is no field of the data; .*add it to"
    ):
        make_model(compose, schema, "model=din")


def test_a_model_of_ones_own_without_a_bottom_is_refused_too(compose: Compose) -> None:
    config = compose("model=din")
    config |= {"model": {"name": "mine", "_target_": "seqmtl.models.din.DIN", "stages": {"main": {}}}}
    with pytest.raises(SeqmtlError, match=r"^model=mine reads histories"):
        check_pairs(config)
