"""The optimizers of the YAMLs, and a table whose rows get gradients by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.types import Field

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
BY_ROWS = ["exact_lazy_adam", "lazy_adam", "rowwise_adagrad"]


def optimizer_of(name: str, params: Any, **options: Any) -> Any:
    """conf/optimizer/<name>.yaml with some options replaced."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"))
    assert isinstance(node, dict)
    return build({k: v for k, v in node.items() if k not in ("freeze", "decay")} | options, params)


def table(rows: int, dim: int = 3, dtype: torch.dtype = torch.float32) -> FieldEmbedding:
    torch.manual_seed(0)
    return FieldEmbedding([Field("a", rows)], dim).to(dtype)


def copy_of(weight: Tensor, dtype: torch.dtype | None = None) -> nn.Parameter:
    """An ordinary parameter, which no optimizer takes for a table."""
    return nn.Parameter(weight.detach().clone().to(dtype or weight.dtype))


def gradient(rows: Sequence[int] | Tensor, like: Tensor, scale: float = 1.0) -> Tensor:
    """Random in these rows, zero elsewhere."""
    dense = torch.zeros_like(like)
    chosen = torch.as_tensor(rows, dtype=torch.int64)
    dense[chosen] = scale * torch.randn(len(chosen), like.shape[1], dtype=like.dtype)
    return dense


def largest(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max())
