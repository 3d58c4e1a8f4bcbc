"""What models of histories cost: `python benchmarks/histories.py --data-dir data`, Markdown tables on the standard output.

Rows per second of a training step (forward, backward and Adam) of every model of DTRN's comparison, with the sizes of its
protocol, on batches of dataset=tenrec_sim that are made beforehand. The models take turns, so that a machine that grows slower is
slower for all; the median is told.

Then DMT and DTRN beside the plain form of each, with the same weights: padded histories, one after the other, and for DTRN once
more for each task. The largest differences, in double precision, are those of log-odds and, relative to the largest of its tensor,
of gradients.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.data.meta import Meta
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.datamodule import DataModule
from seqmtl.models.dmt import DMT
from seqmtl.process import keep_memory
from seqmtl.types import Batch, Features, Schema

CONF = Path(__file__).parents[1] / "conf"
MODELS = ("mmoe", "youtubenet", "din", "dien", "bst", "atrank", "dfn", "dmt", "m2m", "smallheads", "dtrn_wo_trm", "dtrn")
Layer = Callable[[Tensor], Tensor]


def config_of(model: str, data_dir: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose(
            "train", ["dataset=tenrec_sim", "experiment=dtrn_tenrec", f"model={model}", f"data_dir={data_dir}", *options]
        )
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def batches_of(directory: Path, meta: Meta, schema: Schema, rows: int, n: int) -> list[Batch]:
    """The first n batches of a training."""
    return list(islice(DataModule(directory, meta, schema, rows, seed=1).train_dataloader(), n))


def trainer(model: nn.Module, config: Mapping[str, Any], schema: Schema) -> Callable[[Batch], None]:
    """One optimizer step, as the training loop does it."""
    loss, step = build(config["loss"], schema), build(config["step"], schema)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def train(batch: Batch) -> None:
        optimizer.zero_grad()
        step(model, loss, batch)
        optimizer.step()

    return train


def measure(trainers: Mapping[str, Callable[[Batch], None]], batches: Sequence[Batch]) -> dict[str, float]:
    """Median seconds of a step of each; the first batch warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for batch in batches:
        for name, train in trainers.items():
            started = time.perf_counter()
            train(batch)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def plain_layer(
    x: Tensor, memory: Tensor, mask: Tensor, heads: int, qkv: Sequence[Layer], out: Layer, ffn: Layer, norms: Sequence[Layer]
) -> Tensor:
    """A post-norm layer over padded rows: x (B,Q,D), memory (B,L,D), mask (B,L) → (B,Q,D)."""
    q, k, v = (
        layer(y).unflatten(-1, (heads, -1)).transpose(1, 2) for layer, y in zip(qkv, (x, memory, memory), strict=True)
    )  # (B,h,Q or L,d)
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)
    attended = out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)) * mask.any(1)[:, None, None]
    x = norms[0](x + attended)
    return norms[1](x + ffn(x))


class PlainDMT(nn.Module):
    """DMT's bottom on padded histories."""

    def __init__(self, bottom: DMT) -> None:
        super().__init__()
        self.bottom = bottom

    def forward(self, features: Features) -> Tensor:
        assert features.target is not None
        interests = []
        for name, part in zip(self.bottom.histories, self.bottom.parts, strict=True):
            x, mask = features.past[name]
            x, query = x * math.sqrt(x.shape[-1]), (features.target * math.sqrt(x.shape[-1])).unsqueeze(1)
            if part.positions is not None:
                x = x + part.positions[: x.shape[1]]
            for block in part.encoder:
                x = plain_layer(x, x, mask, block.heads, _qkv(block.qkv), block.out, block.ffn, block.norms)
            for block in part.decoder:
                query = plain_layer(query, x, mask, block.heads, _qkv(block.qkv), block.out, block.ffn, block.norms)
            interests.append(query.squeeze(1))
        return torch.cat([features.fields.flatten(1), *interests], 1).unsqueeze(1)


def _qkv(layer: nn.Linear) -> list[Layer]:
    return [partial(F.linear, weight=w, bias=b) for w, b in zip(layer.weight.chunk(3), layer.bias.chunk(3), strict=True)]


class PlainTIM(nn.Module):
    """TIM, with the options of DTRN's YAML, on padded histories: one pair of task and behaviour after the other."""

    def __init__(self, bottom: nn.Module) -> None:
        super().__init__()
        self.bottom = bottom

    def forward(self, features: Features) -> Tensor:
        assert features.target is not None
        bottom: Any = self.bottom
        of_encoder, of_decoder = bottom.hypernetworks()
        out = []
        for t in range(of_encoder["norm_1"].shape[1]):
            interests = []
            for b, name in enumerate(bottom.histories):
                x, mask = features.past[name]
                enc = self._layer(bottom.encoder, x, x, mask, {k: v[b, t] for k, v in of_encoder.items()})
                query = features.target.unsqueeze(1)
                dec = self._layer(bottom.decoder, query, enc, mask, {k: v[b, t] for k, v in of_decoder.items()})
                interests.append(dec.squeeze(1))
            out.append(torch.cat([features.fields.flatten(1), *interests], 1))
        return torch.stack(out, 1)

    def _layer(self, layer: Any, x: Tensor, memory: Tensor, mask: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        def norm(name: str, y: Tensor) -> Tensor:
            shared, (gamma, beta) = getattr(layer, name), given[name]
            return F.layer_norm(y, y.shape[-1:], gamma * shared.weight, beta + shared.bias, shared.eps)

        def ffn(y: Tensor) -> Tensor:
            out: Tensor = layer.ffn_2(layer.ffn_1(y).relu())
            return out

        qkv, norms = (layer.query, layer.key, layer.value), (partial(norm, "norm_1"), partial(norm, "norm_2"))
        return plain_layer(x, memory, mask, self.bottom.heads, qkv, layer.out, ffn, norms)  # type: ignore[arg-type]


def plain(model: nn.Module) -> nn.Module:
    """A copy of DMT or DTRN that works on padded histories."""
    made: Any = copy.deepcopy(model)
    if isinstance(made.bottom, DMT):
        made.bottom = PlainDMT(made.bottom)
    else:
        made.bottom.inner = PlainTIM(made.bottom.inner)
    return made


def difference(a: nn.Module, b: nn.Module, loss: Callable[..., Mapping[str, Tensor]], batch: Batch) -> tuple[float, float]:
    """The largest of log-odds; the largest of gradients, relative to the largest number of its tensor."""
    found = []
    for model in (a, b):
        output = model(batch)
        total = torch.stack([term.sum() for term in loss(output, batch.y).values()]).sum()
        grads = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        found.append((output.logits.detach(), [torch.zeros(()) if g is None else g for g in grads]))
    (z_a, g_a), (z_b, g_b) = found
    relative = [float((x - y).abs().max() / y.abs().max().clamp(min=1e-6)) for x, y in zip(g_a, g_b, strict=True)]
    return float((z_a - z_b).abs().max()), max(relative)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where tenrec_sim is prepared")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--rows", type=int, default=2048, help="of a batch")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", nargs="*", default=[], help="of the command line, as model/trunk=aitm")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as a job does
    configs = {name: config_of(name, options.data_dir, options.options) for name in options.models}
    some = next(iter(configs.values()))
    directory, meta = open_dataset(some)
    schema = chosen_schema(some, meta)
    batches = batches_of(directory, meta, schema, options.rows, options.repeats + 1)

    def made(config: Mapping[str, Any]) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = build(config["model"], schema=schema)
        return model

    trainers = {name: trainer(made(config), config, schema) for name, config in configs.items()}
    seconds = measure(trainers, batches)
    base = seconds.get("dmt")
    print("| model | rows/s | ms of a step | DMT's time |\n|---|---:|---:|---:|")
    for name, s in seconds.items():
        print(f"| {name} | {options.rows / s:,.0f} | {1000 * s:.0f} | {f'{s / base:.2f}x' if base else ''} |")

    print(
        "\n| model | rows/s | plain form | ratio | difference of log-odds | of gradients |\n|---|---:|---:|---:|---:|---:|",
        flush=True,
    )
    for name in ("dmt", "dtrn"):
        if name not in configs:
            continue
        model = made(configs[name])
        same = plain(model)
        z, g = difference(
            copy.deepcopy(model).double(), copy.deepcopy(same).double(), build(configs[name]["loss"], schema), batches[0]
        )
        both = {key: trainer(form, configs[name], schema) for key, form in (("ours", model), ("plain", same))}
        found = measure(both, batches[: max(3, len(batches) // 2)])
        ours, theirs = (options.rows / found[key] for key in ("ours", "plain"))
        print(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.1f}x | {z:.1e} | {g:.1e} |", flush=True)


if __name__ == "__main__":
    main()
