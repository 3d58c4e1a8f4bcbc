"""The kinds of figures: what makes the points of one, and what draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seqmtl.figures import cost, curves, selector, task_space, transfer
from seqmtl.figures.points import Points
from seqmtl.figures.runs import Made
from seqmtl.figures.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Kind(NamedTuple):
    """`points` looks at the runs; `draw` sees nothing but the points."""

    points: Callable[[Sequence[Made], FigureSpec], Points]
    draw: Callable[[Points, FigureSpec], Figure]


KINDS = {
    "transfer_space": Kind(transfer.space_points, transfer.draw_space),
    "transfer_weights": Kind(transfer.weight_points, transfer.draw_weights),
    "curves": Kind(curves.points, curves.draw),
    "smooth_steps": Kind(selector.step_points, selector.draw_steps),
    "selection": Kind(selector.selector_points, selector.draw_selector),
    "cost": Kind(cost.points, cost.draw),
    "task_space": Kind(task_space.points, task_space.draw),
}
