"""APEM as one writes it down first, from its paper: what seqmtl's own form is measured against.

A table for each field, attention with an explicit softmax for one head and one task after the other, dense gradients, torch's
default Adam. The numbers are those of seqmtl's APEM: `take_weights` copies its weights, and the log-odds are the same.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.turns import read_options, take_turns
from seqmtl.data.meta import read_meta
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream

LAYERS, POINTS, HEADS, HIDDEN = 4, 64, 2, 64


class PlainAttention(nn.Module):
    """query (1 or B,Q,D), memory (B,R,D) → (B,Q,D); the query is not projected."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        key, value = self.key(memory), self.value(memory)
        width = query.shape[-1] // HEADS
        heads = []
        for start in range(0, query.shape[-1], width):
            part = slice(start, start + width)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width)  # (B,Q,R)
            heads.append(torch.softmax(scores, -1) @ value[..., part])
        mixed: Tensor = self.out(torch.cat(heads, -1))
        return mixed


class PlainLayer(nn.Module):
    """A layer of the representation generator and the pattern selectors of all tasks that read it."""

    def __init__(self, rows: int, dim: int, tasks: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(POINTS, dim) / math.sqrt(dim))
        self.selector = nn.Linear(rows * dim, POINTS)
        self.attention, self.norm = PlainAttention(dim), nn.LayerNorm(dim)
        self.indicators = nn.ParameterList(nn.Parameter(torch.randn(1, 1, dim) / math.sqrt(dim)) for _ in range(tasks))
        self.of_task = nn.ModuleList(PlainAttention(dim) for _ in range(tasks))
        self.norm_of_task = nn.ModuleList(nn.LayerNorm(dim) for _ in range(tasks))

    def forward(self, h: Tensor, previous: list[Tensor] | None, gamma: float) -> tuple[Tensor, list[Tensor]]:
        s = self.selector(h.flatten(1))  # (B,K)
        cubic = -2 * s**3 / gamma**3 + 3 * s / (2 * gamma) + 0.5  # eq. 13
        zeta = torch.where(s <= -gamma / 2, 0.0, torch.where(s >= gamma / 2, 1.0, cubic))
        query = self.points * zeta.unsqueeze(-1)  # (B,K,D) eq. 14
        residual = query if previous is None else h  # eq. 17 has too few rows in the first layer
        y = self.norm(self.attention(query, h) + residual)
        t = []
        for task, (attention, norm) in enumerate(zip(self.of_task, self.norm_of_task, strict=True)):
            f = attention(self.indicators[task], y).squeeze(1)  # (B,D) eq. 18
            t.append(norm(f if previous is None else previous[task] + f))  # eq. 19
        return y, t


class PlainAPEM(nn.Module):
    """fields (B,F) → log-odds (B,T)."""

    def __init__(self, sizes: Mapping[str, int], tasks: int, dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in sizes.values())
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        self.layers = nn.ModuleList(PlainLayer(POINTS if i else len(sizes), dim, tasks) for i in range(LAYERS))
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)) for _ in range(tasks))

    def forward(self, fields: Tensor, step: int = 0) -> Tensor:
        gamma = max(10.0 - 2e-4 * step, 1e-3)
        h = torch.stack([table(fields[:, i]) for i, table in enumerate(self.tables)], 1)
        t: list[Tensor] | None = None
        for layer in self.layers:
            h, t = layer(h, t, gamma)
        assert t is not None
        return torch.cat([tower(x) for tower, x in zip(self.towers, t, strict=True)], 1)

    @torch.no_grad()
    def take_weights(self, ours: Mapping[str, Tensor]) -> None:
        """Copy the state of seqmtl's APEM, whose layers of equal shape stand side by side in one tensor."""
        start = 0
        for table in self.tables:
            table.weight.copy_(ours["embedding.weight"][start : start + len(table.weight)])
            start += len(table.weight)
        for i, layer in enumerate(self.layers):
            generator, selectors = f"bottom.layers.{i}", f"bottom.selectors.{i}"
            layer.points.copy_(ours[f"{generator}.points"])
            layer.selector.weight.copy_(ours[f"{generator}.selector.1.weight"][0])
            layer.selector.bias.copy_(ours[f"{generator}.selector.1.bias"][0])
            layer.norm.weight.copy_(ours[f"{generator}.norm.weight"])
            layer.norm.bias.copy_(ours[f"{generator}.norm.bias"])
            _take_attention(layer.attention, ours, generator, 0)
            for t, attention in enumerate(layer.of_task):
                layer.indicators[t].copy_(ours[f"{selectors}.alpha"][t].unsqueeze(0))
                _take_attention(attention, ours, selectors, t)
                layer.norm_of_task[t].weight.copy_(ours[f"{selectors}.norm.weight"][t])
                layer.norm_of_task[t].bias.copy_(ours[f"{selectors}.norm.bias"][t])
        for t, tower in enumerate(self.towers):
            for place, name in ((0, "trunk.towers.layers.0.0"), (2, "head.linear")):
                tower[place].weight.copy_(ours[f"{name}.weight"][t])
                tower[place].bias.copy_(ours[f"{name}.bias"][t])


def _take_attention(attention: nn.Module, ours: Mapping[str, Tensor], place: str, n: int) -> None:
    for name, parameter in attention.named_parameters():
        parameter.copy_(ours[f"{place}.attention.{name}"][n])


def plain_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of all tasks, and the dependence of each on the one before it (eq. 23)."""
    cross = sum(F.binary_cross_entropy_with_logits(logits[:, t], y[:, t]) for t in range(y.shape[1]))
    p = torch.sigmoid(logits)
    dependence = [((p[:, t - 1] - p[:, t]) - (y[:, t - 1] - y[:, t])).square().mean() for t in range(1, y.shape[1])]
    total: Tensor = cross + sum(dependence)
    return total


class Plain:
    """Trains PlainAPEM, anew in each turn, over the very batches of seqmtl."""

    def __init__(self, options: Any) -> None:
        self.options = options
        torch.set_num_threads(options.threads)
        self.meta = read_meta(options.data)
        self.rows = Shards(options.data, self.meta, self.meta.schema(), "train").load()

    def turn(self, what: str, batches: int | None) -> dict[str, Any]:
        if what != "train":
            raise ValueError("the plain form is measured in training only")
        torch.manual_seed(1)
        model = PlainAPEM(self.meta.fields, len(self.meta.parents), self.options.dim)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        rows, started = 0, time.perf_counter()
        for step, batch in enumerate(itertools.islice(Stream(self.rows, self.options.batch, seed=1), batches)):
            optimizer.zero_grad()
            plain_loss(model(batch.fields, step), batch.y).backward()
            optimizer.step()
            rows += len(batch)
        return {"rows": rows, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    take_turns(Plain(read_options(__doc__)).turn, {"torch": torch.__version__})
