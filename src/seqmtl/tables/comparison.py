"""Two models on the same test rows: what differs, how sure that is, and what can be said of it in a sentence.

Three questions that are often mixed up, each with a test of its own:

    would these trained models differ on other users?    DeLong clustered by user; LogLoss likewise; a bootstrap that assumes less
    would they differ if they were trained again?        paired t-test over the seeds that both have
    is it chance, that some task of many differs?        Holm's correction over the tasks
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run
from seqmtl.statistics.bootstrap import bootstrap
from seqmtl.statistics.mean import mean_and_std
from seqmtl.statistics.seeds import paired_t
from seqmtl.tables.content import Comparison
from seqmtl.tables.evidence import BY_ROWS, comparison, corrected
from seqmtl.tables.predictions import Truth, logits
from seqmtl.tables.spec import METRICS

Scores = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Model:
    """One side: what it is called, where it lies, its finished runs by seed, their tasks, and what is not finished, in words."""

    name: str
    place: Path
    runs: Mapping[int, Run]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """One metric of one task: A's and B's values by seed, and B against A by rows or users, by bootstrap and over seeds."""

    task: str
    metric: str
    a: dict[int, float | None]
    b: dict[int, float | None]
    rows: Comparison
    bootstrap: Comparison | None
    seeds: Comparison


@dataclass(frozen=True)
class Answer:
    """All that is compared. `clusters`: what the rows' test takes as independent, "13,000 users (field 101)" or "rows"."""

    a: Model
    b: Model
    dataset: str
    version: str
    rows: int
    clusters: str
    tasks_left_out: tuple[str, ...]
    measured: tuple[Measured, ...]

    def sentences(self) -> Iterator[str]:
        """What can be said, task by task."""
        names, independent = (self.a.name, self.b.name), "rows" if self.clusters == "rows" else "users"
        for measured in self.measured:
            yield f"{measured.task}: {sentence(measured, names, independent)}"

    def to_json(self) -> dict[str, Any]:
        """Plain containers; docs/compare.md has the keys."""
        said = list(self.sentences())
        tasks: dict[str, Any] = {}
        for measured, words in zip(self.measured, said, strict=True):
            tests = {"rows": measured.rows, "bootstrap": measured.bootstrap, "seeds": measured.seeds}
            values = {side: _summary(found) for side, found in (("a", measured.a), ("b", measured.b))}
            content = {**values, "difference": measured.rows.difference, "says": words.removeprefix(f"{measured.task}: ")}
            content |= {"tests": {name: None if test is None else _test(test) for name, test in tests.items()}}
            tasks.setdefault(measured.task, {})[measured.metric] = content
        return {
            **{side: _model(model) for side, model in (("a", self.a), ("b", self.b))},
            **{"dataset": self.dataset, "data_version": self.version, "rows": self.rows, "clusters": self.clusters},
            **{"tasks_left_out": list(self.tasks_left_out), "tasks": tasks},
        }


def compare(
    a: Model, b: Model, truth: Truth, *, dataset: str, version: str, user: str | None = None, repeats: int = 1000
) -> Answer:
    """B against A on the truth's rows and tasks.

    Args:
        a, b: with finished runs of these data, which have the truth's tasks.
        truth: by whose users the rows are clustered, where it has any.
        dataset, version, user: of the data, for the answer's words.
        repeats: of the bootstrap; 0: none.

    Raises:
        SeqmtlError: logits are missing, damaged, of other rows, or no numbers.
    """
    read = [[logits(run, truth, side.tasks) for run in side.runs.values()] for side in (a, b)]
    measured = []
    for t, task in enumerate(truth.tasks):
        scores = [_column(side, found, t, task) for side, found in zip((a, b), read, strict=True)]
        measured += [_measured(a, b, scores[0], scores[1], truth, t, metric, repeats) for metric in METRICS]
    clusters = "rows"
    if truth.users is not None:
        clusters = f"{len(np.unique(truth.users)):,} users (field {user})"
    left_out = tuple(task for task in dict.fromkeys((*a.tasks, *b.tasks)) if task not in truth.tasks)
    return Answer(a, b, dataset, version, len(truth), clusters, left_out, tuple(_corrected(measured)))


def _column(side: Model, found: Sequence[NDArray[np.float32]], t: int, task: str) -> Scores:
    """The logits (N,) of one task, of each seed."""
    columns = [np.ascontiguousarray(one[:, t]) for one in found]
    for column, run in zip(columns, side.runs.values(), strict=True):
        if np.isnan(column).any():
            raise SeqmtlError(f"{run.path} predicts no numbers for {task}: it diverged; leave this seed out, or train it anew")
    return columns


def _measured(a: Model, b: Model, of_a: Scores, of_b: Scores, truth: Truth, t: int, metric: str, repeats: int) -> Measured:
    """Both models in one metric; before the correction."""
    task, y, users = truth.tasks[t], np.ascontiguousarray(truth.y[:, t]), truth.users
    values = [{seed: run.metrics().get(f"test/{metric}/{task}") for seed, run in side.runs.items()} for side in (a, b)]
    return Measured(
        task=task,
        metric=metric,
        a=values[0],
        b=values[1],
        rows=comparison(a.name, BY_ROWS[metric](of_b, of_a, y, users)),
        bootstrap=comparison(a.name, bootstrap(of_b, of_a, y, metric, users, repeats)) if repeats else None,
        seeds=comparison(a.name, paired_t(values[1], values[0])),
    )


def _corrected(measured: Sequence[Measured]) -> list[Measured]:
    """With Holm's correction over the tasks, of each metric and each kind of test by itself."""
    made = list(measured)
    for metric in METRICS:
        places = [i for i, one in enumerate(made) if one.metric == metric]
        for kind in ("rows", "bootstrap", "seeds"):
            tests: dict[int, Comparison] = {i: test for i in places if (test := getattr(made[i], kind)) is not None}
            for i, test in corrected(tests, len(tests)).items():
                changed: dict[str, Any] = {kind: test}
                made[i] = replace(made[i], **changed)
    return made


def sentence(measured: Measured, names: tuple[str, str], independent: str) -> str:
    """What can be said of one metric of one task.

    Args:
        names: of A and B.
        independent: users or rows.
    """
    word, better = METRICS[measured.metric]
    rows, seeds, other = measured.rows, measured.seeds, measured.bootstrap
    if rows.difference is None or rows.interval is None:
        return f"{word} cannot be compared: {rows.note or 'it is undefined'}."
    ahead, behind = names[::-1] if rows.difference * better > 0 else names
    again = f"{seeds.method.removeprefix('paired t-test ')}, {p_words(seeds.decisive)}" if seeds.p is not None else seeds.note
    same = seeds.sure and seeds.difference is not None and seeds.difference * rows.difference > 0
    if not rows.sure:
        low, high = rows.interval
        told = f"no difference in {word} can be told on other {independent} ({p_words(rows.decisive)});"
        told += f" B - A is within {low:+.4f} and {high:+.4f}"
        if same:
            told += f"; on these very rows {ahead} is better whichever the seed ({again})"
        return f"{told}."
    low, high = sorted(math.copysign(end, end * rows.difference) for end in rows.interval)
    told = f"{ahead} has the {'higher' if better > 0 else 'lower'} {word} than {behind}, by {abs(rows.difference):.4f}"
    told += f" (95 % {low:.4f} to {high:.4f}), on other {independent} too ({p_words(rows.decisive)})"
    if same:
        told += f", and if both are trained again ({again})"
    elif seeds.p is not None:
        told += f"; but of these trained models only: their seeds do not tell them apart ({again})"
    else:
        told += f"; of these trained models: that it is so if they are trained again takes three seeds of both ({again})"
    if other is not None and other.p is not None and not other.sure:
        told += f"; the bootstrap, which assumes less, does not confirm it ({p_words(other.decisive)})"
    return f"{told}."


def p_words(p: float | None) -> str:
    """p = 0.012, p < 0.001"""
    if p is None:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _test(test: Comparison) -> dict[str, Any]:
    return {"value": test.difference, **{name: getattr(test, name) for name in ("interval", "p", "adjusted", "method", "note")}}


def _summary(values: Mapping[int, float | None]) -> dict[str, Any]:
    mean, std = mean_and_std([*values.values()])
    return {"mean": mean, "std": std, "values": dict(values)}


def _model(model: Model) -> dict[str, Any]:
    runs = [{"seed": seed, "path": str(run.path)} for seed, run in model.runs.items()]
    return {"name": model.name, "path": str(model.place), "runs": runs, "left_out": list(model.left_out)}
