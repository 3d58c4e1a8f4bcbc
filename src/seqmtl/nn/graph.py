"""Which task follows which."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema


def resolve_parents(
    schema: Schema, parents: Sequence[int | None] | None, who: str, option: str, alone: bool = False
) -> list[int | None]:
    """The index of each task's parent: the given ones, else the schema's.

    Args:
        who, option: named in the error.
        alone: a single task is accepted, where `who` then is a model of one task.

    Raises:
        SeqmtlError: the given ones do not fit the tasks, or nobody has a parent, so that `who` would silently do nothing.
    """
    names = schema.task_names
    found = list(schema.parents if parents is None else parents)
    if len(found) != len(names):
        raise SeqmtlError(f"{option} has {len(found)} entries for the {len(names)} tasks {', '.join(names)}; give one for each")
    for t, u in enumerate(found):
        if u is not None and not 0 <= u < t:
            raise SeqmtlError(f"{option} gives task {t} ({names[t]}) the parent {u}; a parent is the index of a task before it")
    if all(u is None for u in found) and not (alone and len(names) == 1):
        if len(names) == 1:
            raise SeqmtlError(
                f"{who} needs a task that follows another, but {names[0]} is alone; train more tasks (dataset.tasks), or choose a"
                " model and a loss without it, as model=single_task loss=bce"
            )
        example = ",".join(["null", *["0"] * (len(names) - 1)])
        raise SeqmtlError(
            f"{who} needs a task that follows another, but none of {', '.join(names)} has a parent;"
            f" give {option}=[{example}] or choose another one"
        )
    return found


def edges(parents: Sequence[int | None]) -> tuple[list[int], list[int]]:
    """Indices of the parents and of the children, one of each for every edge."""
    pairs = [(u, t) for t, u in enumerate(parents) if u is not None]
    return [u for u, _ in pairs], [t for _, t in pairs]


def at_children(values: Tensor, children: Tensor, tasks: int) -> Tensor:
    """Values of edges (edges,) at the tasks `children` (edges,) where they end: (T,), 0 elsewhere."""
    return values.new_zeros(tasks).index_add(0, children, values)
