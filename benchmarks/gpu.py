"""What one GPU does: `python benchmarks/gpu.py --models aitm apem --rows 38000000`, a Markdown table on the standard output.

Rows with Ali-CCP's 18 fields and its ids by AITM's preparation are made on the GPU (Zipf ids, a click and a purchase that
depend on them) and go through the training loop as a run does it: Lightning's trainer, rows on the GPU, validation with AUC. Each
way of running is measured by some thousand steps of its own; with --epoch, the fastest one that computes in float32 by a whole
epoch. Beside the step stands what it must move at least: Adam reads weight, gradient and two moments of every row of the tables and
writes three of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seqmtl.bench.rows import VOCABULARY
from seqmtl.build import build
from seqmtl.data.resident import Resident
from seqmtl.data.rows import Rows
from seqmtl.lit import INIT, Lit, derive_seed
from seqmtl.nn.embedding import FieldEmbedding
from seqmtl.trainer import lightning_trainer
from seqmtl.types import Field, Schema, Task

CONF = Path(__file__).parents[1] / "conf"
SCHEMA = Schema(tuple(Field(n, size) for n, size in VOCABULARY.items()), (Task("click"), Task("purchase", "click")))
WAYS = {
    "op by op": ["trainer.cuda_graph=false"],
    "recorded": [],
    "recorded, tf32": ["trainer.precision=tf32"],
    "recorded, bf16": ["trainer.precision=bf16-mixed"],
    "recorded, compiled": ["trainer.compile=true"],
    "recorded, compiled, tf32": ["trainer.compile=true", "trainer.precision=tf32"],
    "recorded, compiled, bf16": ["trainer.compile=true", "trainer.precision=bf16-mixed"],
}


def zipf(u: torch.Tensor, size: int) -> torch.Tensor:
    """Ids by the law of seqmtl.bench.rows.zipf_ids; u (N,) in [0,1). On the GPU: NumPy would need minutes for 38 million rows."""
    return (u * math.log(size)).exp().floor().clamp(1, size - 1).int()


def make_rows(n: int, seed: int) -> Rows:
    """n rows, of which some 4 % are clicked, and some 1 % bought."""
    device = torch.device("cuda")
    of_rows, of_ids = (torch.Generator(device).manual_seed(s) for s in (seed, 7))
    effects = {name: torch.randn(size, generator=of_ids, device=device) * 0.3 for name, size in VOCABULARY.items()}
    rows = Rows.room(n, len(VOCABULARY), 2, 0)
    for start in range(0, n, 1 << 22):
        part = slice(start, min(n, start + (1 << 22)))
        size = part.stop - part.start
        u = torch.rand(len(VOCABULARY), size, generator=of_rows, device=device, dtype=torch.float64)
        ids = {name: zipf(x, size_of) for x, (name, size_of) in zip(u, VOCABULARY.items(), strict=True)}
        z = sum(effects[name][ids[name].long()] for name in VOCABULARY)
        click = torch.rand(size, generator=of_rows, device=device) < (z - 4).sigmoid()
        bought = click & (torch.rand(size, generator=of_rows, device=device) < (z - 1.5).sigmoid())
        rows.fields[part] = torch.stack(list(ids.values()), 1).cpu().numpy()
        rows.y[part] = torch.stack([click, bought], 1).to(torch.int8).cpu().numpy()
    return rows


class Times:
    """An observer that keeps seconds: of the epoch after its first `warm` steps, and what validation says."""

    def __init__(self, warm: int) -> None:
        self.warm, self.started, self.seconds, self.steps = warm, 0.0, 0.0, 0
        self.metrics: Mapping[str, float | None] = {}

    def epoch_started(self, epoch: int, batches: int, done: int) -> None: ...

    def trained(self, values: Mapping[str, float], step: int, batch: int) -> None:
        if step == self.warm:
            torch.cuda.synchronize()
            self.started = time.perf_counter()

    def epoch_trained(self, step: int) -> None:
        torch.cuda.synchronize()
        self.seconds, self.steps = time.perf_counter() - self.started, step - self.warm
        self.validation = time.perf_counter()

    def validated(self, values: Mapping[str, float | None], step: int, epoch: int) -> None:
        self.validation = time.perf_counter() - self.validation
        self.metrics = values


def fit(model: str, ways: list[str], train: Rows, valid: Rows, batches: int | None, warm: int) -> tuple[Times, Lit]:
    """One epoch, or so many batches of it."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        words = [
            f"experiment={model}",
            f"model={model}",
            "dataset=aliccp",
            "trainer=gpu",
            "trainer.max_epochs=1",
            f"trainer.log_every={warm}",
        ]
        composed = compose("train", [*words, f"trainer.max_batches={batches or 'null'}", *ways])
        config: Any = OmegaConf.to_container(composed, resolve=True)
    options, optimizer = config["trainer"], config["optimizer"]
    decay, _ = optimizer.pop("decay"), optimizer.pop("freeze")
    torch.manual_seed(derive_seed(1, INIT))
    times = Times(warm)
    lit = Lit(
        build(config["model"], schema=SCHEMA),
        build(config["loss"], SCHEMA),
        build(config["step"], SCHEMA),
        lambda groups: build(optimizer, groups),
        decay,
        SCHEMA,
        {"train": len(train), "valid": len(valid), "test": 0},
        1,
        0,
        options["log_every"],
        times,
        cuda_graph=options["cuda_graph"],
        compiled=options["compile"],
    )
    trainer = lightning_trainer(options, [], 1)
    streams = [Resident(train, config["batch_size"], 1, device="cuda"), Resident(valid, 8192, device="cuda")]
    trainer.fit(lit, *streams)
    return times, lit


def floor(lit: Lit) -> float:
    """Milliseconds that Adam needs for the tables at the bandwidth of a copy on this GPU."""
    x = torch.empty(1 << 28, device="cuda")
    y = torch.empty_like(x)
    y.copy_(x)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        y.copy_(x)
    torch.cuda.synchronize()
    bandwidth = 10 * 2 * x.nbytes / (time.perf_counter() - started)
    moved = 7 * sum(m.weight.nbytes for m in lit.model.modules() if isinstance(m, FieldEmbedding))
    return 1000 * moved / bandwidth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["aitm", "apem"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--rows", type=int, default=38_000_000)
    parser.add_argument("--batches", type=int, default=2000, help="steps for each way")
    parser.add_argument("--warm", type=int, default=200, help="steps before the clock starts")
    parser.add_argument("--epoch", action="store_true", help="also a whole epoch, the fastest way")
    parser.add_argument("--profile", action="store_true", help="which kernels take the time of the fastest way")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    name = torch.cuda.get_device_name()
    started = time.perf_counter()
    train, valid = make_rows(options.rows, 0), make_rows(min(options.rows, 1_000_000), 1)
    print(f"{name}, torch {torch.__version__}; {len(train):,} rows made in {time.perf_counter() - started:.0f} s", flush=True)
    print("| model | way | ms of a step | rows/s | floor of Adam's bytes, ms | AUC click | AUC purchase | memory, MB |", flush=True)
    print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    results = []

    def measure(model: str, way: str, batches: int | None) -> float:
        gc.collect()  # a trainer and its model hold each other
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        times, lit = fit(model, WAYS[way], train, valid, batches, options.warm)
        total = time.perf_counter() - began
        step = times.seconds / times.steps
        rows = lit.trainer.train_dataloader.batch_size / step
        auc = [times.metrics[f"val/auc/{task}"] for task in SCHEMA.task_names]
        peak = torch.cuda.max_memory_allocated() / 2**20
        found = {"model": model, "way": way, "ms": 1000 * step, "rows_per_second": rows, "floor_ms": floor(lit), "auc": auc}
        results.append(
            found | {"peak_mb": peak, "steps": times.steps, "whole_fit_s": total, "validation_s": times.validation, "gpu": name}
        )
        told = way if batches else f"{way}: an epoch of {times.seconds:.1f} s, {total:.1f} s with all"
        numbers = [f"{1000 * step:.3f}", f"{rows:,.0f}", f"{found['floor_ms']:.3f}", *(f"{x:.4f}" for x in auc), f"{peak:,.0f}"]
        print(f"| {' | '.join([model, told, *numbers])} |", flush=True)
        return step

    for model in options.models:
        seconds = {way: measure(model, way, options.batches) for way in options.ways}
        best = min(seconds, key=lambda way: seconds[way])
        if options.epoch:
            measure(model, min((w for w in seconds if "bf16" not in w and "tf32" not in w), key=lambda w: seconds[w]), None)
        if options.profile:
            show_profile(model, best, train, valid, options.warm)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def show_profile(model: str, way: str, train: Rows, valid: Rows, warm: int) -> None:
    """The kernels of 100 steps, by time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        fit(model, WAYS[way], train, Rows(*(np.ascontiguousarray(x[:8192]) for x in vars(valid).values())), warm + 100, warm)
    print(f"\nkernels of {model}, {way}, {warm + 100} steps:\n")
    print(seen.key_averages().table(sort_by="self_device_time_total", row_limit=22, max_name_column_width=90), flush=True)


if __name__ == "__main__":
    main()
