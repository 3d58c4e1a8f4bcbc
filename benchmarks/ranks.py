"""What several gloo ranks cost on one machine: milliseconds of a training step, and of the exchange in it.

    python benchmarks/ranks.py [--ranks 1 2] [--dim 5 18] [--rows 2000]

MMoE on rows of Ali-CCP's shape: 18 fields of 1.28 M ids together, drawn by Zipf's law. The global batch is the same for any
number of ranks; each has one thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from seqmtl.bench.rows import VOCABULARY, zipf_ids
from seqmtl.losses.bce import BCE
from seqmtl.losses.terms import Terms
from seqmtl.models.flat import Flat
from seqmtl.models.linear import Linear
from seqmtl.models.mmoe import MMoE
from seqmtl.models.mtl import MTLModel
from seqmtl.nn.table_gradients import clear_gradients
from seqmtl.ranks import Exchange
from seqmtl.steps.plain import Plain
from seqmtl.types import Batch, Field, Schema, Task


def measure(rank: int, ranks: int, dim: int, rows: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    schema = Schema(tuple(Field(name, size) for name, size in VOCABULARY.items()), (Task("click"), Task("purchase", "click")))
    model = MTLModel(schema, dim, Flat, MMoE, Linear)
    loss, step, exchange = Terms(schema, {"bce": BCE}), Plain(schema), Exchange()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    mine = rows * (rank + 1) // ranks - rows * rank // ranks
    draws = np.random.default_rng(rank)
    whole, sent = [], []
    for _ in range(steps):
        fields = torch.from_numpy(np.stack([zipf_ids(draws, size, mine) for size in VOCABULARY.values()], 1))
        batch = Batch(fields, torch.rand(mine, 2).lt(0.1).float(), share=mine / rows)
        started = time.perf_counter()
        clear_gradients(model.parameters())
        terms = step(model, loss, batch)
        before = time.perf_counter()
        exchange(model, terms, batch.share)
        after = time.perf_counter()
        optimizer.step()
        sent.append(1e3 * (after - before))
        whole.append(1e3 * (time.perf_counter() - started))
    if rank == 0:
        megabytes = sum(p.numel() for p in model.parameters()) * 4 / 2**20
        told = ", ".join(f"{what} {median(x[2:]):.1f} ms (least {min(x):.1f})" for what, x in (("step", whole), ("exchange", sent)))
        print(f"dim {dim:2d}, {megabytes:5.1f} MB of gradients, {ranks} ranks: {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dim", type=int, nargs="+", default=[5, 18])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for dim in given.dim:
        for ranks in given.ranks:
            with tempfile.TemporaryDirectory() as folder:
                processes.spawn(measure, (ranks, dim, given.rows, given.steps, folder), ranks)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
