"""Two small task graphs, batches of them, and models out of the YAMLs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from seqmtl.build import build
from seqmtl.types import Batch, Field, History, Schema, Task

Compose = Callable[..., dict[str, Any]]

CONF = Path(__file__).parents[2] / "conf"

FIELDS = (Field("user", 40), Field("item", 30), Field("hour", 24), Field("place", 5))
HISTORIES = (
    History("click", "item", max_len=3),
    History("skip", "item", max_len=5, sign=-1),
    History("like", "item", max_len=2, own_table=True),
)
CHAIN = Schema(FIELDS, (Task("click"), Task("cart", "click"), Task("purchase", "cart")), HISTORIES, "click")
TREE = Schema(FIELDS, (Task("watch"), Task("click", "watch"), Task("enter", "watch"), Task("order", "enter")), HISTORIES, "click")
SCHEMAS = {"chain": CHAIN, "tree": TREE}

# For bottoms that read histories: longer ones, and a width that attention of four heads can share.
READERS = sorted({p.stem for p in (CONF / "model" / "bottom").glob("*.yaml")} - {"apem", "flat"})
D = 8
LONG = replace(CHAIN, histories=tuple(replace(h, max_len=n) for h, n in zip(HISTORIES, (6, 9, 4), strict=True)))


def make_batch(schema: Schema, rows: int = 16, seed: int = 0) -> Batch:
    """Random ids and histories; the labels follow the task graph."""
    g = torch.Generator().manual_seed(seed)
    fields = torch.stack([torch.randint(0, f.size, (rows,), generator=g) for f in schema.fields], 1).int()
    y = torch.zeros(rows, len(schema.tasks))
    for t, u in enumerate(schema.parents):
        y[:, t] = (torch.rand(rows, generator=g) < 0.6) * (1.0 if u is None else y[:, u])
    past = {h.name: torch.randint(1, 30, (rows, h.max_len), generator=g).int() for h in schema.histories}
    past_len = {h.name: torch.randint(0, h.max_len + 1, (rows,), generator=g) for h in schema.histories}
    return Batch(fields, y, past=past, past_len=past_len)


def _part_config(kind: str, name: str) -> Any:
    """A part's YAML and those of the parts that it wraps, for data without a profile, less what a protocol says of it."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / kind / f"{name}.yaml"))
    assert isinstance(config, dict)
    for default in config.pop("defaults", []):
        for group, chosen in default.items() if isinstance(default, dict) else ():
            if group.startswith("/model/"):
                wrapped, key = group.removeprefix("/model/").split("@")
                config[key] = _part_config(wrapped, chosen) | config.get(key, {})
    resolved = OmegaConf.to_container(OmegaConf.create({"dataset": {"profile": []}, "part": config}), resolve=True)
    assert isinstance(resolved, dict)
    return resolved["part"]


def part(kind: str, name: str, **options: Any) -> Any:
    """The partial that a part's YAML makes, with some options replaced."""
    config = _part_config(kind, name)
    unknown = set(options) - set(config)
    assert not unknown, f"not in the YAML of {name}: {unknown}"
    return build(config | options)


def _quiet(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: 0.0 if k == "dropout" or k.endswith("_dropout") else _quiet(v) for k, v in node.items()}
    return node


def _shrunk(node: Any, widest: int = 32) -> Any:
    if isinstance(node, dict):
        return {
            k: [min(x, widest) for x in v] if k.endswith("dims") and isinstance(v, list) else _shrunk(v, widest)
            for k, v in node.items()
        }
    return node


def make_model(compose: Compose, schema: Schema, *overrides: str, dropout: bool = False, shrink: bool = True) -> nn.Module:
    """The model of the composed config, narrow unless `shrink` is False, and without dropout unless asked for."""
    return model_from(compose(*overrides)["model"], schema, dropout, shrink)


def model_from(config: dict[str, Any], schema: Schema, dropout: bool = False, shrink: bool = True) -> nn.Module:
    """The same of a config that is composed already."""
    config = config if dropout else _quiet(config)
    model = build(_shrunk(config) if shrink else config, schema=schema)
    assert isinstance(model, nn.Module)
    return model
