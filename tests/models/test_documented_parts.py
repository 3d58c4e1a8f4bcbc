"""Parts put together on the command line: what the documentation prints is built, and what cannot be is refused in words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import Compose
from torch import nn

from seqmtl.build import build, check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.types import Field, History, Schema, Task

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/models.md", "docs/balancers.md", "conf/experiment/dtrn_tenrec.yaml")
PRINTED = sorted({
    span for page in PAGES for span in re.findall(r"`(model=\w+ [^`…]*)`", (ROOT / page).read_text()) if "NAME" not in span
})  # fmt: skip
PARTS = {kind: sorted(p.stem for p in (ROOT / "conf" / "model" / kind).glob("*.yaml")) for kind in ("bottom", "trunk")}


def schema_of(dataset: dict[str, Any]) -> Schema:
    """As the data that the YAML prepares would have it, with small vocabularies."""
    prepare, options = dataset["prepare"], {"sign": 1, "own_table": False}
    item = prepare.get("item", "item_id")
    histories = tuple(History(name, item, **options | given) for name, given in dataset["histories"].items())
    fields = tuple(Field(name, 20) for name in prepare["fields"])
    schema = Schema(fields, tuple(Task(t, u) for t, u in prepare["parents"].items()), histories, dataset["main_history"])
    return schema.keep(dataset["tasks"])


def made(compose: Compose, *overrides: str) -> nn.Module:
    data = [] if any(o.startswith("dataset=") for o in overrides) else ["dataset=ecommerce_sim"]
    config = compose(*data, *overrides)
    check_pairs(config)
    schema = schema_of(config["dataset"])
    with torch.device("meta"):
        build(config["loss"], schema)
        model: nn.Module = build(config["model"], schema=schema)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("command", PRINTED)
def test_what_is_printed_is_built(command: str, compose: Compose) -> None:
    made(compose, *(word for word in shlex.split(command) if "=" in word))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("model", ["dmt", "dtrn_wo_trm", "mmoe", "ple", "apem"])
def test_any_part_goes_into_a_model_that_sets_no_sizes_and_others_say_what_to_do(model: str, kind: str, compose: Compose) -> None:
    for part in PARTS[kind]:
        said = refusal(compose, f"model={model}", f"model/{kind}={part}")
        if model in ("dmt", "dtrn_wo_trm"):
            assert said == ""
        assert re.search(r"^$|another model\.dim|put that part into a model that sets none|needs a task that follows", said), said


def refusal(compose: Compose, *overrides: str) -> str:
    try:
        made(compose, *overrides)
    except SeqmtlError as e:
        return str(e)
    return ""
