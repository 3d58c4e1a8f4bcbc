"""AITM (KDD 2021): what its transfer module makes of the rows, Figures 4 and 7, and how much it transfers, Figure 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.figures import drawing, sampling
from seqmtl.figures.inner import Calls, Inner, Keep
from seqmtl.figures.points import Points
from seqmtl.figures.runs import Made, the_run, where
from seqmtl.figures.space import agreement, tsne
from seqmtl.figures.spec import FigureSpec
from seqmtl.models.aitm import AITM
from seqmtl.types import Output

COMPONENTS = {"original": "Original, $q_t$", "transferred": "Transferred + Original, $p_{t-1}+q_t$", "ait": "AIT, $z_t$"}
BINS = ("top 0-50 %", "top 50-100 %")
GROUPS = ((0, 0), (1, 0), (1, 1))  # labels of the parent and of the child
QUARTILES = ("0-25 %", "25-50 %", "50-75 %", "75-100 %")


def edge_to(inner: Inner, task: str) -> tuple[str, list[str], Keep]:
    """What to look at on the edge that leads to a task.

    Returns:
        The parent; the modules to watch; and what is kept of them: p, q and z (B,k), and w (B,2), the weights of p and q.

    Raises:
        SeqmtlError: the model has not AITM's trunk, or the task no parent in it.
    """
    trunk = getattr(inner.model, "trunk", None)
    if not isinstance(trunk, AITM):
        raise SeqmtlError(
            f"{inner.run_dir} is of a model without AITM's transfer; this figure takes model=aitm or model/trunk=aitm"
        )
    t = inner.task(task)
    parent = trunk.parents[t]
    if parent is None:
        raise SeqmtlError(f"nothing is transferred to '{task}', which follows no other task of the run")
    edge = sum(u is not None for u in trunk.parents[:t])
    modules = len(trunk.ait)  # one for all edges, or one for each
    name = f"trunk.ait.{edge % modules}"

    def keep(calls: Calls, output: Output) -> dict[str, Any]:
        (p, q), (z, w) = calls[name][edge // modules]
        return {"p": p, "q": q, "z": z, "w": w}

    return inner.schema.task_names[parent], [name], keep


def space_points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """Figures 4 and 7: one map of each component over all sampled rows, shown in two bins."""
    made, options = the_run(runs), spec.options
    inner, task, seed = made.inner(), options["task"], options["seed"]
    parent, names, keep = edge_to(inner, task)
    t = inner.task(task)
    labels, logits = inner.labels[:, t], np.asarray(inner.logits[:, t])
    chosen = sampling.by_confidence(labels, logits, options["positives"], options["negatives"], seed)
    places = np.concatenate([chosen[1], chosen[0]])
    found = inner.read(places, names, keep)
    vectors = {"original": found["q"], "transferred": found["p"] + found["q"], "ait": found["z"]}
    counts = [len(chosen[1]), len(chosen[0])]
    label = np.repeat([1, 0], counts)
    bin_ = np.concatenate([sampling.bins(n, 2) for n in counts])
    share = np.concatenate([sampling.shares(n) for n in counts])
    frames, parted = [], []
    for component, of_it in vectors.items():
        plane = tsne(of_it, options["perplexity"], seed)
        parted.append(f"{component} {agreement(of_it, label):.2f}")
        columns = {"component": component, "row": places, "label": label, "logit": logits[places]}
        frames.append(pl.DataFrame({**columns, "rank_share": share, "bin": bin_ + 1, "x": plane[:, 0], "y": plane[:, 1]}))
    notes = [where(made), f"{task} after {parent}. t-SNE of each component over all rows, perplexity {options['perplexity']:g}."]
    notes += _fewer("positives", counts[0], options["positives"]) + _fewer("negatives", counts[1], options["negatives"])
    notes.append(f"Share of a row's 10 nearest neighbours with its label (0.5 is chance): {', '.join(parted)}.")
    return Points(pl.concat(frames), tuple(notes))


def draw_space(points: Points, spec: FigureSpec) -> Figure:
    figure, axes = drawing.panels(2, 3, f"{spec.title}: {spec.options['task']}", 3.4, 3.1)
    for column, (component, title) in enumerate(COMPONENTS.items()):
        axes[1][column].sharex(axes[0][column])  # one map: its halves in the same frame
        axes[1][column].sharey(axes[0][column])
        for row, words in enumerate(BINS):
            here = axes[row][column]
            some = points.frame.filter(component=component, bin=row + 1)
            drawing.cloud(here, some, "label", {0: ("negative", 0), 1: ("positive", 1)}, 9)
            here.set_title(f"{title}\n{words}", fontsize=9)
    drawing.legend(axes[0][0])
    drawing.caption(figure, points.notes)
    return figure


def weight_points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """Figure 6: mean and deviation of w_p by group of labels and quartile of the LogLoss."""
    made, options = the_run(runs), spec.options
    inner, seed = made.inner(), options["seed"]
    everything = np.arange(len(inner.labels))
    places = sampling.draw(everything, options["rows"], seed)
    notes = [where(made), *_fewer("test rows", len(places), options["rows"])]
    lines = []
    for task in options["tasks"]:
        parent, names, keep = edge_to(inner, task)
        weights = inner.read(places, names, keep)["w"][:, 0]
        u, t = inner.task(parent), inner.task(task)
        before, after = (inner.labels[places, i] for i in (u, t))
        logits = np.asarray(inner.logits[places, t])
        lacking = []
        for group in GROUPS:
            members = np.flatnonzero((before == group[0]) & (after == group[1]))
            chosen = sampling.easiest(after, logits, members, options["top"], seed)
            lacking += [f"{_words(group)} {len(chosen)}"] if len(chosen) < options["top"] else []
            losses = sampling.log_loss(after[chosen], logits[chosen])
            line = {"edge": f"{parent} → {task}", "before": group[0], "after": group[1]}
            lines += [line | more for more in _by_quartile(weights[chosen], losses)]
        if lacking:
            notes.append(f"{parent} → {task}: of some groups there are fewer than {options['top']} rows: {', '.join(lacking)}.")
    notes.append("Shaded: one standard deviation of the rows. LogLoss is that of the later task; rank 0 % is the smallest.")
    return Points(pl.DataFrame(lines), tuple(notes))


def _words(group: tuple[int, int]) -> str:
    return f"{group[0]}{group[1]}"


def _by_quartile(weights: NDArray[Any], losses: NDArray[Any]) -> list[dict[str, Any]]:
    """A line for each quartile that has rows."""
    quartile = sampling.bins(len(weights), 4)
    lines = []
    for q, words in enumerate(QUARTILES):
        some = weights[quartile == q].astype(np.float64)
        if len(some):
            numbers = {"mean": float(some.mean()), "std": float(some.std()), "logloss": float(losses[quartile == q].mean())}
            lines.append({"quartile": q + 1, "ranks": words, "rows": len(some), **numbers})
    return lines


def draw_weights(points: Points, spec: FigureSpec) -> Figure:
    edges = points.frame["edge"].unique(maintain_order=True).to_list()
    figure, axes = drawing.panels(1, len(edges), spec.title, 4.6, 3.9)
    for here, edge, letter in zip(axes[0], edges, "abcdefgh", strict=False):
        for group, number in zip(GROUPS, (1, 0, 2), strict=True):  # the paper's: red, blue, green
            some = points.frame.filter(edge=edge, before=group[0], after=group[1])
            x, mean, std = (some[name].to_list() for name in ("quartile", "mean", "std"))
            drawing.band(here, x, mean, std, _words(group), number)
        here.set_xticks(range(1, 5), QUARTILES)
        here.set_ylim(-0.02, 1.02)
        here.set_xlabel("rank by LogLoss")
        here.set_title(f"({letter}) {edge}", fontsize=9)
    axes[0][0].set_ylabel("weight $w_p$ of what is transferred")
    drawing.legend(axes[0][-1], title="labels before, after", title_fontsize=8)
    drawing.caption(figure, points.notes)
    return figure


def _fewer(what: str, found: int, wanted: int) -> list[str]:
    return [f"The test split has {found:,} {what}, fewer than the {wanted:,} asked for."] if found < wanted else []
