"""What the ranks of one job do together, so that n of them equal one process.

Unusual: there is no DDP wrapper. After a step everything that is to be summed goes through one buffer, in one message: gradients,
the statistics of batch norms, and the terms of the loss, each rank's weighted by its share of the global batch. Of embedding tables
the rows that were read go before (table_exchange.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import is_table
from seqmtl.nn.table_gradients import forget_rows
from seqmtl.steps.ranks import world_size
from seqmtl.table_exchange import exchange_tables


def gathered(mine: Any) -> list[Any]:
    """What each rank has, in the order of the ranks, on all of them."""
    if world_size() == 1:
        return [mine]
    ranks: list[Any] = [None] * world_size()
    dist.all_gather_object(ranks, mine)
    return ranks


def leave() -> None:
    """Take leave of the other ranks, at the end: threads of gloo that outlive the interpreter can abort a process that is done."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Exchange:
    """Sums over the ranks what a step leaves."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)  # kept: a new one each step may be as large as an embedding table

    @torch.no_grad()
    def __call__(self, module: nn.Module, terms: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Gradients, which are weighted already, and running statistics become those of all ranks.

        A parameter without a gradient on any rank keeps none, as in one process: an optimizer leaves it alone.

        Returns:
            The terms of the global batch, () each.
        """
        weighted = {name: value * share if share else torch.zeros_like(value) for name, value in terms.items()}
        if world_size() == 1:
            return weighted
        trained, statistics = [p for p in module.parameters() if p.requires_grad], running_statistics(module)
        tables = [p for p in trained if is_table(p)]
        trained = [p for p in trained if not is_table(p)] + exchange_tables(tables)
        has = [p.grad is not None for p in trained]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        parts += [value * share for value in statistics]
        parts += [torch.tensor(has, dtype=torch.float32, device=next(module.parameters()).device), *weighted.values()]
        summed = iter(self._sum(parts))
        for parameter in trained:
            parameter.grad = next(summed).view_as(parameter).to(parameter.dtype)
            forget_rows(parameter)  # other ranks read other rows
        for value in statistics:
            value.copy_(next(summed).view_as(value))
        ranks_with_gradient = next(summed)
        if not all(has):  # else there is nothing to look at, and a look would wait for the device
            for parameter, n in zip(trained, ranks_with_gradient.tolist(), strict=True):
                parameter.grad = parameter.grad if n else None
        return {name: total.view(()).clone() for name, total in zip(weighted, summed, strict=True)}

    def _sum(self, parts: list[Tensor]) -> tuple[Tensor, ...]:
        sizes = [part.numel() for part in parts]
        first = parts[-1]  # a term of the loss
        if self.buffer.numel() != sum(sizes) or self.buffer.device != first.device:
            self.buffer = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        torch.cat([part.reshape(-1).to(first.dtype) for part in parts], out=self.buffer)
        dist.all_reduce(self.buffer)
        return self.buffer.split(sizes)


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Means and variances that batch norms keep for evaluation: each rank's are of its own rows."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    return [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]


def refuse_difference(module: nn.Module, facts: Mapping[str, object]) -> None:
    """All ranks must begin alike: with another library, file or weight on one of them they would train nonsense without a word.

    Args:
        module: has the weights.
        facts: {what: value}, compared before the weights.

    Raises:
        SeqmtlError: on every rank, naming the first fact that differs.
    """
    if world_size() == 1:
        return
    ranks = gathered(dict(facts) | _weight_facts(module))
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        values = [rank.get(name) for rank in ranks]
        other = next((r for r, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            raise SeqmtlError(
                f"the ranks of this job do not begin alike: {name} is {values[0]} on rank 0 and {values[other]} on rank {other};"
                " all machines of a job need the same installation, and must see the same files"
            )


def _weight_facts(module: nn.Module) -> dict[str, object]:
    """{what: shape and sum of the bits}: enough to tell weights from others, and a pass over them."""
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        f"the weight {name}": (tuple(x.shape), int(x.contiguous().view(-1).view(integer[x.element_size()]).sum(dtype=torch.int64)))
        for name, x in module.state_dict().items()
    }
