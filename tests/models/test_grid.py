"""Any bottom under any trunk, any trunk under any head."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from model_cases import CHAIN, TREE, make_batch, part
from torch import nn

from seqmtl.losses.bce import BCE
from seqmtl.models.mtl import MTLModel
from seqmtl.types import Schema

CONF = Path(__file__).parents[2] / "conf" / "model"
BOTTOMS, TRUNKS, HEADS = (sorted(p.stem for p in (CONF / kind).glob("*.yaml")) for kind in ("bottom", "trunk", "head"))
MIXTURE = {"dims": [8], "tower_dims": [4]}
SMALL = {  # widths for a test; what is not named is small as it is
    "apem": {"layers": 1, "inducing": 4},
    "aitm": {"dims": [8, 4]},
    "man": {"dims": [8, 6], "tower_dims": [6, 4], "hidden": [4]},
    "ple": {"levels": [[8], [6]], "tower_dims": [4]},
    "towers": {"dims": [8, 4]},
    "m2m": {"hidden": 4, "view": 4, "profile": ["place"]},
    "escm2": {"imputation": "error", "dims": [8, 4]},
    "mmoe": MIXTURE,
    "omoe": MIXTURE,
    "shared_bottom": MIXTURE,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def of(kind: str, name: str) -> nn.Module:
    """A part, narrow and without dropout."""
    options = dict(SMALL.get(name, {}))
    if kind == "trunk" and name in ("aitm", "towers"):
        options["dropout"] = 0.0
    if kind == "head" and name == "escm2":
        options["dropout"] = 0.0
    return part(kind, name, **options)  # type: ignore[no-any-return]


def trains(schema: Schema, bottom: str, trunk: str, head: str) -> None:
    model = MTLModel(schema, 4, of("bottom", bottom), of("trunk", trunk), of("head", head))
    batch = make_batch(schema, 6)
    output = model(batch)
    assert output.logits.shape == (6, len(schema.tasks))
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(value).all() for value in output.extras.values())
    assert model.provides <= output.extras.keys()
    BCE(schema)(output, batch.y).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    for some in (model.bottom, model.trunk, model.head, model.embedding):
        parameters = list(some.parameters())
        assert not parameters or any(p.grad is not None and p.grad.any() for p in parameters)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("bottom", BOTTOMS)
def test_a_bottom_and_a_trunk(bottom: str, trunk: str) -> None:
    trains(CHAIN, bottom, trunk, "linear")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("bottom", ["flat", "tim"])  # one representation for all tasks, and one for each
def test_a_trunk_and_a_head(bottom: str, trunk: str, head: str) -> None:
    trains(TREE, bottom, trunk, head)


@pytest.mark.parametrize("inner", [name for name in BOTTOMS if name != "trm"])
def test_trm_around_any_bottom(inner: str) -> None:
    bottom = partial(part("bottom", "trm"), inner=of("bottom", inner))
    model = MTLModel(CHAIN, 4, bottom, of("trunk", "aitm"), of("head", "linear"))
    output = model(make_batch(CHAIN, 6))
    assert torch.isfinite(output.logits).all()
    BCE(CHAIN)(output, make_batch(CHAIN, 6).y).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.bottom.out.parameters())
    assert model.histories == getattr(model.bottom.inner, "histories", ())
