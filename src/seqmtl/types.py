"""What the parts of seqmtl pass to each other. Imports nothing heavy, so that the command line may read a Schema at once.

Shape letters, used in every docstring and comment:

    B  batch                     W  width of the bottom's output
    T  tasks                     H  hidden width of the trunk's output
    F  fields                    K  experts, or inducing points
    L  history length            G  1 (one representation for all tasks) or T (one for each)
    D  embedding width
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from seqmtl.errors import SeqmtlError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Field:
    """A categorical field. `size` counts the rows of its embedding table; id 0 is unknown, filtered or missing.

    `bag` is the most ids that a row has of a multi-valued field, whose vector is their mean; 0: it has one value.
    """

    name: str
    size: int
    bag: int = 0


@dataclass(frozen=True)
class History:
    """Past ids of one behaviour, oldest first, in the table of `field` unless `own_table`; `sign` -1 is negative feedback."""

    name: str
    field: str
    max_len: int
    sign: int = 1
    own_table: bool = False


@dataclass(frozen=True)
class Task:
    """A step of the funnel. `parent` is the step that must happen first; the tasks of a schema form a forest."""

    name: str
    parent: str | None = None


@dataclass(frozen=True)
class Schema:
    """All that a model learns about a dataset.

    Raises:
        SeqmtlError: a task's parent is unknown or stands after it, a name is used twice, or a bag stands before a field.
    """

    fields: tuple[Field, ...]
    tasks: tuple[Task, ...]
    histories: tuple[History, ...] = ()
    main_history: str | None = None

    def __post_init__(self) -> None:
        sequences = tuple(f.name for f in self.bags) + self.history_names
        for what, names in (("field", self.field_names), ("task", self.task_names), ("history and bag", sequences)):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise SeqmtlError(f"{what} names must differ, but these stand twice: {', '.join(sorted(twice))}")
        if [f for f in self.fields if not f.bag] != list(self.fields[: len(self.fields) - len(self.bags)]):
            raise SeqmtlError("multi-valued fields must stand after the others")
        for t, task in enumerate(self.tasks):
            if task.parent is not None and task.parent not in self.task_names[:t]:
                raise SeqmtlError(
                    f"the parent '{task.parent}' of task '{task.name}' must be a task that stands before it;"
                    f" the tasks are {', '.join(self.task_names)}"
                )

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    @property
    def bags(self) -> tuple[Field, ...]:
        """The multi-valued fields; they stand last."""
        return tuple(f for f in self.fields if f.bag)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.tasks)

    @property
    def history_names(self) -> tuple[str, ...]:
        return tuple(h.name for h in self.histories)

    @property
    def parents(self) -> tuple[int | None, ...]:
        """Index of each task's parent, None for a root."""
        return tuple(None if t.parent is None else self.task_names.index(t.parent) for t in self.tasks)

    def keep(self, tasks: Iterable[str]) -> Schema:
        """The schema of some of the tasks, in the order given; a child of a dropped task goes to its nearest kept ancestor."""
        names = list(tasks)
        by_name = {t.name: t for t in self.tasks}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise SeqmtlError(f"no task is named {', '.join(unknown)}; the data have {', '.join(by_name)}")
        if not names:
            raise SeqmtlError(f"dataset.tasks is empty; choose from {', '.join(by_name)}")

        def nearest(parent: str | None) -> str | None:
            while parent is not None and parent not in names:
                parent = by_name[parent].parent
            return parent

        return replace(self, tasks=tuple(replace(by_name[name], parent=nearest(by_name[name].parent)) for name in names))

    def read(self, histories: Iterable[str]) -> Schema:
        """The schema with some of the histories."""
        names = set(histories)
        return replace(self, histories=tuple(h for h in self.histories if h.name in names))


@dataclass
class Batch:
    """Rows as a model sees them.

    Shapes: fields (B,F) int, without bags · y (B,T) float32 · past {name: (B,L) int}, right padded, oldest first · past_len
    {name: (B,) int}. Multi-valued fields stand in `past` too, beside the histories.
    `share` is this rank's rows ÷ the rows of the global batch: gradients so weighted add up over the ranks to those of one process.
    """

    fields: Tensor
    y: Tensor
    share: float = 1.0
    past: dict[str, Tensor] = field(default_factory=dict)
    past_len: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.fields.shape[0])

    def to(self, device: object, non_blocking: bool = False) -> Batch:
        """The batch on another device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)  # type: ignore[call-overload]

        return Batch(
            fields=move(self.fields),
            y=move(self.y),
            share=self.share,
            past={k: move(v) for k, v in self.past.items()},
            past_len={k: move(v) for k, v in self.past_len.items()},
        )


@dataclass
class Features:
    """A batch, embedded.

    Shapes: fields (B,F,D) · target (B,D), the row's item where there are histories · past {name: (items (B,L,D), mask (B,L))} ·
    past_ids {name: (B,L) int}.
    `lookup(field, ids)` embeds further ids of a field, `lookup_past(history, ids)` of what a history is made of, (…) → (…,D).
    What a part wants to show or be trained by goes into `extras`, which ends in `Output.extras`.
    """

    fields: Tensor
    lookup: Callable[[str, Tensor], Tensor]
    target: Tensor | None = None
    past: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    past_ids: Mapping[str, Tensor] = field(default_factory=dict)
    lookup_past: Callable[[str, Tensor], Tensor] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Output:
    """What every model returns.

    `logits` (B,T): the log-odds that task t happens, over all impressions, for every model.
    `extras`: conditional (B,T), imputation (B,T), auxiliary (B,T); experts (B,T or 1,H), their mixture before the towers; every
    `loss_<name>` () is added to the loss in training.
    """

    logits: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
