"""Whether the tasks' representations lie apart: DTRN's Figures 1 (b), 5 and 6 (CIKM 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.figures import drawing, sampling
from seqmtl.figures.inner import Calls, Inner
from seqmtl.figures.points import Points
from seqmtl.figures.runs import Made, the_run, where
from seqmtl.figures.space import agreement, tsne
from seqmtl.figures.spec import FigureSpec
from seqmtl.models.ple import PLE
from seqmtl.models.tim import TIM
from seqmtl.models.trm import TRM
from seqmtl.types import Output

Vectors = NDArray[np.float32]


def experts(inner: Inner, places: NDArray[np.int64]) -> Vectors:
    """What PLE's last level gives each task's tower, (N,T,H) (Figure 1 b)."""
    trunk = getattr(inner.model, "trunk", None)
    if not isinstance(trunk, PLE):
        raise SeqmtlError(f"{inner.run_dir} is of a model without PLE; this figure takes model=ple or model/trunk=ple")
    name = f"trunk.levels.{len(trunk.levels) - 1}"

    def keep(calls: Calls, output: Output) -> dict[str, Tensor]:
        return {"x": calls[name][0].output[0]}

    return inner.read(places, [name], keep)["x"]


def interests(inner: Inner, places: NDArray[np.int64], history: str) -> Vectors:
    """interest_{t,b} of one behaviour b, (N,T,D) (Figure 5): a piece of what TIM returns, the fields and then all behaviours."""
    name, tim = _named(inner, TIM, "the interests of TIM; this figure takes model=dtrn")
    if history not in tim.histories:
        raise SeqmtlError(f"the run reads no history '{history}'; it reads {', '.join(tim.histories)}")
    end = len(tim.histories) - tim.histories.index(history)
    dim = tim.width // (len(inner.schema.fields) + len(tim.histories))

    def keep(calls: Calls, output: Output) -> dict[str, Tensor]:
        raw: Tensor = calls[name][0].output  # (B,T,(F+M)·D)
        start = raw.shape[-1] - end * dim
        return {"interest": raw[..., start : start + dim]}

    return inner.read(places, [name], keep)["interest"]


def bottoms(inner: Inner, places: NDArray[np.int64]) -> Vectors:
    """r_t, what TRM gives the trunk, (N,T,W) (Figure 6)."""
    name, _ = _named(inner, TRM, "TRM; this figure takes model=dtrn")

    def keep(calls: Calls, output: Output) -> dict[str, Tensor]:
        return {"r": calls[name][0].output}

    return inner.read(places, [name], keep)["r"]


def _named(inner: Inner, kind: type[nn.Module], what: str) -> tuple[str, Any]:
    for name, module in inner.model.named_modules():
        if isinstance(module, kind):
            return name, module
    raise SeqmtlError(f"{inner.run_dir} is of a model without {what}")


def points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """A map of N rows × T tasks for each panel; `what` says of which representation."""
    made, options = the_run(runs), spec.options
    inner, what = made.inner(), options["what"]
    if what == "interests":
        return _interest_points(made, inner, options)
    looks = {"experts": experts, "bottoms": bottoms}
    if what not in looks:
        raise SeqmtlError(f"figure.what must be one of {', '.join([*looks, 'interests'])}, not {what}")
    places = sampling.draw(np.arange(len(inner.labels)), options["rows"], options["seed"])
    frame, note = _map(inner, places, looks[what](inner, places), options)
    notes = [where(made), f"{len(places):,} test rows, each once for each task."]
    if len(places) < options["rows"]:
        notes[-1] = f"All {len(places):,} test rows, fewer than the {options['rows']:,} asked for; each once for each task."
    return Points(frame, (*notes, note))


def _interest_points(made: Made, inner: Inner, options: Mapping[str, Any]) -> Points:
    frames, notes = [], [where(made)]
    for history in options["histories"]:
        lengths = inner.lengths(history)
        places, enough = sampling.by_length(lengths, options["above"], options["rows"], options["seed"])
        frame, note = _map(inner, places, interests(inner, places, history), options)
        repeated = np.repeat(lengths[places], len(inner.schema.tasks))
        frames.append(frame.with_columns(pl.lit(history).alias("history"), pl.Series("length", repeated)))
        notes.append(f"{history}: {_lengths_note(lengths[places], enough, options)} {note}")
    return Points(pl.concat(frames), tuple(notes))


def _lengths_note(chosen: NDArray[Any], enough: int, options: Mapping[str, Any]) -> str:
    above, wanted, shortest = options["above"], options["rows"], int(chosen.min())
    if enough >= wanted:
        return f"{len(chosen):,} of the {enough:,} test rows with more than {above} items."
    return (
        f"{enough:,} test rows have more than {above} items, fewer than the {wanted:,} asked for; these are the {len(chosen):,}"
        f" with the longest histories, down to {shortest} item{'s' * (shortest != 1)}."
    )


def _map(inner: Inner, places: NDArray[np.int64], vectors: Vectors, options: Mapping[str, Any]) -> tuple[pl.DataFrame, str]:
    """The lines of one map, row by row and task by task, and how far the tasks lie apart."""
    n, tasks, width = vectors.shape
    flat = vectors.reshape(n * tasks, width)
    plane = tsne(flat, options["perplexity"], options["seed"])
    task = np.tile(inner.schema.task_names, n)
    near = agreement(flat, task)
    frame = pl.DataFrame({"row": np.repeat(places, tasks), "task": task, "x": plane[:, 0], "y": plane[:, 1]})
    return frame, f"Share of a point's 10 nearest neighbours with its task ({1 / tasks:.2g} is chance): {near:.2f}."


def draw(points: Points, spec: FigureSpec) -> Figure:
    histories = points.frame["history"].unique(maintain_order=True).to_list() if "history" in points.frame.columns else [""]
    figure, axes = drawing.panels(1, len(histories), spec.title, 5.0, 4.6)
    for here, history in zip(axes[0], histories, strict=True):
        some = points.frame.filter(history=history) if history else points.frame
        tasks = some["task"].unique(maintain_order=True).to_list()
        drawing.cloud(here, some, "task", {task: (task, number) for number, task in enumerate(tasks)})
        here.set_title(f"{history} history" if history else "", fontsize=9)
        drawing.legend(here)
    drawing.caption(figure, points.notes)
    return figure
