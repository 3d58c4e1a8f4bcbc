"""Runs a function on n processes that are the ranks of one job, and gives back what each returned."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(n: int, function: Callable[..., Any], *args: Any, seconds: float = 600) -> list[Any]:
    """function(rank, n, *args) of each rank. It stands at the top of a module, which each process imports.

    Forked from a server that has the slow imports behind it, so the second call takes no second.

    Raises:
        AssertionError: a rank failed, with all that it says.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqmtl.stage"])
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_rank, args=(rank, n, folder, function, args)) for rank in range(n)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(seconds)
        late = [process for process in ranks if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        said = "\n".join(path.read_text() for path in sorted(Path(folder).glob("*.txt")))
        assert not late, f"{len(late)} ranks hang; {said}"
        assert not any(process.exitcode for process in ranks), said
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(n)]


def _rank(rank: int, n: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": n,
        "LOCAL_WORLD_SIZE": n,
        "TORCHELASTIC_RUN_ID": "test",
    }
    os.environ |= {name: str(value) for name, value in place.items()}
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n)
        torch.save(function(rank, n, *args), f"{folder}/{rank}.pt")
        dist.barrier()
    except BaseException:
        Path(folder, f"{rank}.txt").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise
    dist.destroy_process_group()
