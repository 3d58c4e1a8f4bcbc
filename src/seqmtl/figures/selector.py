"""APEM (2023): its smooth step, Figure 5, and what its dynamic selector chooses, Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seqmtl.build import build
from seqmtl.errors import SeqmtlError
from seqmtl.figures import drawing, sampling
from seqmtl.figures.inner import Calls, Inner
from seqmtl.figures.points import Points
from seqmtl.figures.runs import Made, the_run, where
from seqmtl.figures.space import pca
from seqmtl.figures.spec import FigureSpec
from seqmtl.models.apem import APEM
from seqmtl.nn.smooth_step import smooth_step
from seqmtl.types import Output

RANGE = 10.0  # of z in the paper's Figure 5
PARTS = ("rates", "rows")
GROUPS = {"top": "top", "middle": "around the median", "bottom": "bottom"}


def step_points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """Figure 5: f_D(z) with the γ that the config has after some optimizer steps."""
    made = the_run(runs)
    gamma = build(made.config["model"]["bottom"]["gamma"])
    z = torch.linspace(-RANGE, RANGE, 801, dtype=torch.float64)
    frames = []
    for step in spec.options["steps"]:
        width = gamma(torch.tensor(step))
        columns = {"step": step, "gamma": float(width), "z": z.numpy(), "f": smooth_step(z, width).numpy()}
        frames.append(pl.DataFrame(columns))
    floor = (gamma.init - gamma.min) / gamma.rate if gamma.rate else float("inf")
    note = (
        f"γ falls from {gamma.init:g} by {gamma.rate:g} each optimizer step to {gamma.min:g}, where it is after {floor:,.0f} steps."
    )
    return Points(pl.concat(frames), (note,))


def draw_steps(points: Points, spec: FigureSpec) -> Figure:
    figure, axes = drawing.panels(1, 1, spec.title, 6.0, 4.2)
    for number, ((step, gamma), line) in enumerate(points.frame.group_by(["step", "gamma"], maintain_order=True)):
        colour = colormaps["viridis"](0.95 * number / max(1, len(spec.options["steps"]) - 1))  # the paler the harder
        axes[0][0].plot(line["z"].to_list(), line["f"].to_list(), color=colour, label=f"step {step:,}, γ = {gamma:.3g}")
    axes[0][0].set_xlabel("z")
    axes[0][0].set_ylabel("$f_D(z)$")
    drawing.legend(axes[0][0])
    drawing.caption(figure, points.notes)
    return figure


def rates(inner: Inner, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of ζ > 0 of test rows in each layer, (N,L).

    Raises:
        SeqmtlError: the model has no dynamic selector.
    """
    bottom = getattr(inner.model, "bottom", None)
    if not isinstance(bottom, APEM) or any(layer.selector is None for layer in bottom.layers):
        raise SeqmtlError(f"{inner.run_dir} is of a model without APEM's dynamic selector; this figure takes model=apem")
    names = [f"bottom.layers.{layer}" for layer in range(len(bottom.layers))]

    def keep(calls: Calls, output: Output) -> dict[str, Any]:
        zetas = [calls[name][0].output[1] for name in names]  # (B,K) of each layer
        return {"rate": torch.stack([(zeta > 0).double().mean(1) for zeta in zetas], 1)}

    return inner.read(places, names, keep)["rate"].astype(np.float64)


def embeddings(inner: Inner, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the first layer reads of test rows, their fields' embeddings one after the other, (N,F·D)."""

    def keep(calls: Calls, output: Output) -> dict[str, Any]:
        return {"fields": calls["bottom.layers.0"][0].inputs[0].flatten(1)}

    return inner.read(places, ["bottom.layers.0"], keep)["fields"]


def selector_points(runs: Sequence[Made], spec: FigureSpec) -> Points:
    """Figure 7: how many rows have which rate (part `rates`), and where rows of extreme rates lie (part `rows`)."""
    made, options = the_run(runs), spec.options
    inner, seed = made.inner(), options["seed"]
    places = sampling.draw(np.arange(len(inner.labels)), options["rows"], seed)
    of_layers = rates(inner, places)
    overall = of_layers.mean(1)
    inducing = made.config["model"]["bottom"]["inducing"]
    frames = [_counted(str(layer + 1), of_layers[:, layer], inducing) for layer in range(of_layers.shape[1])]
    frames.append(_counted("all", overall, inducing))
    groups = sampling.extremes(overall, options["share"], options["most"], seed)
    chosen = np.concatenate(list(groups.values()))
    plane, shown = pca(embeddings(inner, places[chosen]), seed)
    names = np.repeat(list(groups), [len(group) for group in groups.values()])
    columns = {"part": "rows", "group": names, "row": places[chosen], "rate": overall[chosen]}
    frames.append(pl.DataFrame({**columns, "x": plane[:, 0], "y": plane[:, 1]}))
    return Points(pl.concat(frames, how="diagonal"), (*_selector_notes(made, inner, overall, groups, options), _shown(shown)))


def _counted(layer: str, rate: NDArray[np.float64], inducing: int) -> pl.DataFrame:
    """How many rows have each rate that there is; `inducing` is K, the points of a layer."""
    values, counts = np.unique(rate.round(6), return_counts=True)
    columns = {"part": "rates", "layer": layer, "inducing": inducing, "rate": values}
    return pl.DataFrame({**columns, "rows": counts, "share": counts / len(rate)})


def _edges(inducing: int) -> NDArray[np.float64]:
    """Of some 32 bins that hold equally many of the rates i/K that a layer can have."""
    each = max(1, round(inducing / 32))
    return (np.arange(0, inducing + each + 1, each) - 0.5) / inducing


def _selector_notes(
    made: Made, inner: Inner, overall: NDArray[np.float64], groups: dict[str, NDArray[np.int64]], options: Any
) -> list[str]:
    bottom = inner.model.bottom
    assert isinstance(bottom, APEM)
    gamma = float(bottom.gamma(bottom.step))
    state = "its floor" if gamma <= bottom.gamma.min else f"above its floor {bottom.gamma.min:g}, so the selector is not yet hard"
    low, middle, high = np.quantile(overall, [0.25, 0.5, 0.75])
    said = ", ".join(f"{len(rows)} {GROUPS[name]} ({overall[rows].mean():.1%})" for name, rows in groups.items())
    return [
        f"{where(made)} {len(overall):,} test rows; γ = {gamma:.3g} after {int(bottom.step):,} optimizer steps, {state}.",
        f"Share of ζ > 0 over all layers: median {middle:.1%}, half of the rows between {low:.1%} and {high:.1%}.",
        f"(b) rows with the highest, middle and lowest {options['share']:.0%} of shares: {said}.",
    ]


def _shown(share: float) -> str:
    return f"The two main components of flat(E) over these rows show {share:.0%} of its variance."


def draw_selector(points: Points, spec: FigureSpec) -> Figure:
    figure, axes = drawing.panels(1, 2, spec.title, 4.8, 3.9)
    left, right = axes[0]
    counted = points.frame.filter(part="rates").with_columns(pl.col("layer").cast(pl.String))
    edges = _edges(int(counted["inducing"][0]))
    for number, layer in enumerate(counted["layer"].unique(maintain_order=True).to_list()):
        some = counted.filter(layer=layer)
        heights, _ = np.histogram(some["rate"].to_numpy(), edges, weights=some["share"].to_numpy())
        whole = layer == "all"
        colour = "#000000" if whole else drawing.COLOURS[number % len(drawing.COLOURS)]
        label = "all layers" if whole else f"layer {layer}"
        left.stairs(heights, edges, color=colour, linewidth=2 if whole else 1, label=label)
    left.set_xlabel("share of ζ > 0")
    left.set_ylabel("share of the test rows")
    left.set_title("(a) selection rate", fontsize=9)
    drawing.legend(left)
    colours = (2, 4, 0)  # the paper's: green, yellow, blue
    groups = {group: (name, number) for (group, name), number in zip(GROUPS.items(), colours, strict=True)}
    drawing.cloud(right, points.frame.filter(part="rows"), "group", groups, 10)
    right.set_title("(b) embeddings of rows by selection rate", fontsize=9)
    drawing.legend(right)
    drawing.caption(figure, points.notes)
    return figure
