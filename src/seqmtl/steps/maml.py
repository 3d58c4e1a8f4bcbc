"""MAML: model-agnostic meta-learning (Finn et al., ICML 2017, https://arxiv.org/abs/1703.03400), as the first stage of MAN
(Intelligent Automation & Soft Computing 36(3), 2023, https://doi.org/10.32604/iasc.2023.036622, Algorithm 1).

    θ_c = θ - α ∂L_a(θ)/∂θ   for each task c, on its rows a (support);   the gradient: Σ_c ∂L_b(θ_c)/∂θ   on its rows b (query)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.embedding import watch
from seqmtl.nn.table_gradients import add_gradients
from seqmtl.steps.inner import SCOPES, adapt, forward
from seqmtl.steps.ranks import world_size
from seqmtl.steps.terms import Loss, loss_terms, tasks_and_rest, told, total
from seqmtl.types import Batch, Schema

CHOICES = {"inner_scope": SCOPES, "reduction": ("mean", "sum")}


class Episode(NamedTuple):
    """One task of a meta-step: what it adapts on (None: it does not), what it is judged by, its weight among this rank's.

    `label`: the index of the schema's task whose loss it has; None: the whole loss.
    """

    support: Batch | None
    query: Batch
    weight: float
    label: int | None = None


class MAML:
    """Leaves in `.grad` the gradient of the loss after one inner step, averaged over tasks.

    Args:
        alpha: size of the inner step; 0: none is made, which is an ordinary step on the query halves.
        tasks: of one optimizer step, which takes as many minibatches of `batch_size` rows. Not used by task_by=label.
        task_by: what a task is. random: a minibatch. feature:NAME: the rows with one value of that field, of the values that have
            two rows `tasks` at random. label: each task of the schema, on all rows.
        first_order: leave out the gradient through the inner step.
        inner_scope: what the inner step moves. all; dense: the same through gradients as large as the tables; head: all but the
            embedding tables.
        reduction: mean, or sum (Algorithm 1, line 8) over the tasks.

    Half of a task's rows adapt, the other half judges; a task of one row does not adapt. Parameters of the loss are not adapted.
    Every operation must be twice differentiable, unless first_order.

    Raises:
        SeqmtlError: an option out of its range.

    *Differs*: the paper says neither α nor what a task is. Ali-CCP has no campaigns, whose ids D_[c] seems to mean; α is that of
    MetaHeac, which the algorithm follows. With label, a term that belongs to no task is shared out evenly.
    """

    def __init__(
        self,
        schema: Schema,
        alpha: float = 2e-4,
        tasks: int = 2,
        task_by: str = "random",
        first_order: bool = False,
        inner_scope: str = "all",
        reduction: str = "mean",
    ) -> None:
        for option, value in (("inner_scope", inner_scope), ("reduction", reduction)):
            if value not in CHOICES[option]:
                raise SeqmtlError(f"{option}={value} of step=maml is unknown; choose from {', '.join(CHOICES[option])}")
        if isinstance(tasks, bool) or not isinstance(tasks, int) or tasks < 1:
            raise SeqmtlError(f"tasks={tasks} of step=maml must be an integer of at least 1")
        if not alpha >= 0:
            raise SeqmtlError(f"alpha={alpha} of step=maml must not be below 0")
        self.alpha, self.tasks, self.first_order, self.scope, self.reduction = alpha, tasks, first_order, inner_scope, reduction
        self.by, _, field = str(task_by).partition(":")
        self.labels = len(schema.tasks)
        self.column = _column(schema, str(task_by), field)
        self.batches = 1 if self.by == "label" else tasks

    def refuse_ranks(self, world_size: int) -> None:
        """Each rank must hold whole tasks, which are then those of one process."""
        if world_size == 1:
            return
        if self.by != "random":
            raise SeqmtlError(
                f"task_by={self.by} of step=maml draws its tasks from a whole batch, of which {world_size} ranks hold a piece each;"
                " use trainer.devices=1 or task_by=random"
            )
        if self.tasks % world_size:
            raise SeqmtlError(
                f"step=maml shares its {self.tasks} tasks out to {world_size} ranks; give a multiple, as tasks={world_size}"
            )

    def __call__(self, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
        """Returns the terms on the query rows, averaged over tasks, and as `extra/support_loss` the loss before the inner step."""
        episodes, tasks = self._episodes(batch)
        scale = batch.share * (tasks if self.reduction == "sum" else 1)
        said: dict[str, Tensor] = {}
        for episode in episodes:
            for name, value in self._learn(model, loss, episode, scale).items():
                said[name] = said.get(name, 0.0) + episode.weight * value
        return said

    def _learn(self, model: nn.Module, loss: Loss, episode: Episode, scale: float) -> dict[str, Tensor]:
        """Adds the gradient of one task to `.grad`."""
        support, query = episode.support, episode.query
        before: Tensor | None = None
        adapts = support is not None and self.alpha
        with watch(model, cut=self.scope != "dense") as lookups:
            if support is None or not adapts:
                output = model(query)
            else:
                before = self._objective(loss_terms(model(support), loss, support.y), episode)
                at = adapt(model, before, lookups, self.alpha, self.scope, self.first_order)
                output = forward(model, query, at)
        terms = loss_terms(output, loss, query.y)
        after = self._objective(terms, episode)
        with _in_words():
            (after * (episode.weight * scale)).backward()
        if self.scope != "dense":
            add_gradients(lookups)
        more = {"extra/support_loss": (after if before is None else before).detach()} if self.alpha else {}
        return told(terms, output) | more

    def _objective(self, terms: Mapping[str, Tensor], episode: Episode) -> Tensor:
        if episode.label is None:
            return total(terms)
        of_tasks, rest = tasks_and_rest(terms)
        return of_tasks[episode.label] + rest / self.labels

    def _episodes(self, batch: Batch) -> tuple[list[Episode], int]:
        """The tasks of this rank, and how many all ranks have."""
        if self.by == "label":
            rows = torch.arange(len(batch), device=batch.y.device)
            return [_halves(batch, rows, 1 / self.labels, label) for label in range(self.labels)], self.labels
        if self.by == "feature":
            values = batch.fields[:, self.column]
            found, count = values.unique(return_counts=True)
            found = found[count >= 2]
            chosen = found[torch.randperm(len(found))[: self.tasks].to(found.device)]
            of_value = [(values == value).nonzero().flatten() for value in chosen]
            if not of_value:
                return [Episode(None, batch, 1.0)], 1
            return [_halves(batch, rows, 1 / len(of_value)) for rows in of_value], len(of_value)
        rows = torch.arange(len(batch), device=batch.y.device)
        parts, tasks = self._parts(len(batch), batch.share)
        return [_halves(batch, rows[a:b], (b - a) / len(batch)) for a, b in parts], tasks

    def _parts(self, rows: int, share: float) -> tuple[list[tuple[int, int]], int]:
        """Where this rank's tasks begin and end among its rows, and how many all ranks have: those of one process."""
        if not share:  # a row that only keeps this rank in step with the others
            return [(0, rows)], 1
        world = world_size()
        rank = dist.get_rank() if world > 1 else 0
        n, mine = round(rows / share), self.tasks // world
        first = n * rank // world
        ends = [n * task // self.tasks - first for task in range(rank * mine, (rank + 1) * mine + 1)]
        return [(a, b) for a, b in pairwise(ends) if a < b], min(n, self.tasks)


def _column(schema: Schema, task_by: str, field: str) -> int:
    """The column of `feature:NAME`, 0 for what needs none."""
    if task_by in ("random", "label"):
        return 0
    single = [f.name for f in schema.fields if not f.bag]
    if task_by.partition(":")[0] != "feature" or not field:
        raise SeqmtlError(f"task_by={task_by} of step=maml is unknown; choose from random, label and feature:NAME")
    if field not in single:
        raise SeqmtlError(f"task_by={task_by} of step=maml: no single-valued field has this name; they are {', '.join(single)}")
    return single.index(field)


def _halves(batch: Batch, rows: Tensor, weight: float, label: int | None = None) -> Episode:
    """Every other row adapts: where the data are sorted, both halves are alike."""
    support = _take(batch, rows[1::2]) if len(rows) > 1 else None
    return Episode(support, _take(batch, rows[::2]), weight, label)


def _take(batch: Batch, rows: Tensor) -> Batch:
    past, past_len = ({name: x[rows] for name, x in of.items()} for of in (batch.past, batch.past_len))
    return Batch(batch.fields[rows], batch.y[rows], batch.share, past, past_len)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except RuntimeError as e:
        if "is not implemented" in str(e) or "once_differentiable" in str(e):
            raise SeqmtlError(f"step=maml needs second derivatives, which a part has not ({e}); give first_order=true") from e
        raise
