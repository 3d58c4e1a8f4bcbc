"""What a step costs: `python benchmarks/balancers.py mmoe aitm --steps plain pcgrad dwa`, a Markdown table on the standard output.

Milliseconds of a training step (gradients and Adam), and beside them how many times that of step=plain. Ids are random, in tables
as large as those of dataset=aliccp_sim (--sizes for others), or those of a prepared dataset (--data data/aliccp_sim). The steps of
one model take turns, so that a machine that grows slower is slower for all; the median is told.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from seqmtl.build import build
from seqmtl.data.meta import read_meta
from seqmtl.types import Batch, Field, Schema, Task

CONF = Path(__file__).parents[1] / "conf"
STEPS = ("plain", "dwa", "gradnorm", "pcgrad", "mgda", "imtl_g", "nash_mtl", "aligned_mtl", "cagrad", "upgrad")
SIZES = (2001, 98, 14, 3, 8, 4, 4, 3, 5, 1001, 21, 221, 99, 41, 661, 295, 41, 4)  # of dataset=aliccp_sim


def random_batches(sizes: list[int], rows: int, tasks: int, seed: int = 0) -> Iterator[Batch]:
    """One batch after the other; task t happens in a tenth of the rows where the one before it happened."""
    rng = np.random.default_rng(seed)
    while True:
        fields = np.stack([rng.integers(0, size, rows) for size in sizes], 1).astype(np.int32)
        y = np.cumprod(rng.random((rows, tasks)) < 0.1, 1).astype(np.float32)
        yield Batch(torch.from_numpy(fields), torch.from_numpy(y))


def prepared_batches(directory: Path, schema: Schema, rows: int) -> Iterator[Batch]:
    """The rows of the training split, in their order, over and over."""
    import polars as pl

    frame = pl.read_parquet(sorted((directory / "train").glob("*.parquet"))[:1])
    fields = frame.select(schema.field_names).to_numpy().astype(np.int32)
    y = frame.select(schema.task_names).to_numpy().astype(np.float32)
    start = 0
    while True:
        start = 0 if start + rows > len(y) else start
        yield Batch(torch.from_numpy(fields[start : start + rows]), torch.from_numpy(y[start : start + rows]))
        start += rows


def trainer(config: dict[str, Any], schema: Schema, device: str) -> Callable[[Batch], None]:
    """One optimizer step of a config, as the training loop does it."""
    torch.manual_seed(0)
    model = build(config["model"], schema=schema).to(device)
    loss, step = build(config["loss"], schema).to(device), build(config["step"], schema)
    step = step.to(device) if isinstance(step, torch.nn.Module) else step
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], fused=True)

    def train(batch: Batch) -> None:
        optimizer.zero_grad()
        step(model, loss, batch)
        optimizer.step()

    return train


def measure(trainers: list[Callable[[Batch], None]], batches: Iterator[Batch], repeats: int, device: str) -> list[float]:
    """Median milliseconds of each, after a tenth of the repeats to warm up."""
    seconds: list[list[float]] = [[] for _ in trainers]
    for _ in range(repeats + max(2, repeats // 10)):
        batch = next(batches).to(device)
        for train, found in zip(trainers, seconds, strict=True):
            if device != "cpu":
                torch.cuda.synchronize()
            started = time.perf_counter()
            train(batch)
            if device != "cpu":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
    return [1000 * statistics.median(found[-repeats:]) for found in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--steps", nargs="+", default=STEPS, help="of conf/step; plain is always measured")
    parser.add_argument("--batch-size", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=2, help="a chain of so many, with random ids")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of each field's table, with random ids")
    parser.add_argument("--data", type=Path, help="a prepared dataset, instead of random ids")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = ["plain", *(step for step in options.steps if step != "plain")]
    if options.data:
        schema = read_meta(options.data).schema()
        batches = prepared_batches(options.data, schema, options.batch_size)
    else:
        tasks = tuple(Task(f"t{t}", f"t{t - 1}" if t else None) for t in range(options.tasks))
        schema = Schema(tuple(Field(f"f{i}", size) for i, size in enumerate(options.sizes)), tasks)
        batches = random_batches(options.sizes, options.batch_size, options.tasks)
    print(f"| model | {' | '.join(steps)} |\n|---|{'---:|' * len(steps)}")
    for model in options.models:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            configs: Any = [compose("train", [f"model={model}", f"step={s}"]) for s in steps]
        made = [trainer(OmegaConf.to_container(config, resolve=True), schema, options.device) for config in configs]
        found = measure(made, batches, options.repeats, options.device)
        print(f"| {model} | {' | '.join(f'{ms:.1f} ms ({ms / found[0]:.2f}x)' for ms in found)} |", flush=True)


if __name__ == "__main__":
    main()
