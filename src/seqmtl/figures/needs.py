"""What each kind of figure must find in its YAML, told before anything is trained.

Unusual: it stands apart from kinds.py, which draws and takes a second to import; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from seqmtl import entries
from seqmtl.figures.spec import FigureSpec

MEASURED = ("epoch_seconds", "test_seconds", "params_mb")  # of draw: cost
LOOKS = ("experts", "bottoms", "interests")  # of draw: task_space
LEAST = {"seed": 0, "above": 0, "steps": 0}  # of whole numbers; of the others 1


class Needs(NamedTuple):
    """Of one kind.

    Args:
        options: that it must have, each with a value like those that it may have.
        more: options that it may have.
        panels: whether it has any; else each row is one run.
        one: it shows one model of one seed.
        trains: whether its runs are trained.
    """

    options: Mapping[str, Any] = {}
    more: Mapping[str, Any] = {}
    panels: bool = False
    one: bool = True
    trains: bool = True

    @property
    def known(self) -> dict[str, Any]:
        """All options."""
        return {**self.options, **self.more}


PLANE = {"perplexity": 30.0, "seed": 0}
NEEDS = {
    "transfer_space": Needs({"task": "purchase", "positives": 500, "negatives": 500, **PLANE}),
    "transfer_weights": Needs({"rows": 40000, "tasks": ["purchase"], "top": 500, "seed": 0}),
    "curves": Needs(panels=True, one=False),
    "smooth_steps": Needs({"steps": [0, 10000]}, trains=False),
    "selection": Needs({"rows": 100000, "share": 0.01, "most": 500, "seed": 0}),
    "cost": Needs({"ours": ["APEM"]}, {"published": {}}, one=False),
    "task_space": Needs({"what": "experts", "rows": 1000, **PLANE}, {"histories": ["watch"], "above": 40}),
}


def check_draw(spec: FigureSpec) -> None:
    """What the figure's kind asks of it.

    Raises:
        ValueError: there is no such kind, or it has not what its kind needs.
    """
    if spec.draw not in NEEDS:
        raise ValueError(f"draw must be one of {', '.join(NEEDS)}, not {spec.draw!r}")
    needs = NEEDS[spec.draw]
    kind = f"draw: {spec.draw}"
    if bool(spec.panels) != needs.panels:
        raise ValueError(f"{kind} {'needs panels' if needs.panels else 'has no panels'}")
    if spec.trains != needs.trains:
        raise ValueError(f"{kind} {'needs its runs trained' if needs.trains else 'trains nothing: trains: false'}")
    if needs.one and len(spec.rows) > 1:
        raise ValueError(f"{kind} shows one model, not the rows {', '.join(spec.rows)}")
    if needs.one and len(spec.seeds) > 1:
        raise ValueError(f"{kind} shows one model of one seed, not of the seeds {', '.join(map(str, spec.seeds))}")
    entries.refuse_unknown("options", spec.options, needs.known.keys())
    check_options(spec)


def check_options(spec: FigureSpec, where: str = "options.") -> None:
    """The options of a figure whose `draw` there is.

    Args:
        where: what stands before an option's name.

    Raises:
        ValueError: one is missing or wrong.
    """
    needs, options = NEEDS[spec.draw], spec.options
    wanted = [*needs.options, *(needs.more if options.get("what") == "interests" else ())]
    if lacking := [name for name in wanted if name not in options]:
        raise ValueError(f"draw: {spec.draw} needs {', '.join(where + name for name in lacking)}")
    for name, value in options.items():
        example = needs.known[name]
        if not _like(value, example, LEAST.get(name, 1)):
            raise ValueError(f"{where}{name} must be like {example!r}, not {value!r}")
    if "share" in options and options["share"] > 1:
        raise ValueError(f"{where}share must be a share of the rows, not {options['share']!r}")
    if spec.draw == "task_space" and options["what"] not in LOOKS:
        raise ValueError(f"{where}what must be one of {', '.join(LOOKS)}, not {options['what']!r}")
    if spec.draw == "cost":
        _check_cost(spec, where)


def _check_cost(spec: FigureSpec, where: str) -> None:
    published = spec.options.get("published", {})
    unknown = [str(row) for row in (*spec.options["ours"], *published) if row not in spec.rows]
    if unknown:
        raise ValueError(f"{where}ours and {where}published are of rows; {', '.join(unknown)} is none")
    for row, values in published.items():
        entries.refuse_unknown(f"{where}published.{row}", values, set(MEASURED))
        for name, value in (values or {}).items():
            if not _like(value, 1.0, 0):
                raise ValueError(f"{where}published.{row}.{name} must be a number, not {value!r}")


def _like(value: Any, example: Any, least: int) -> bool:
    """Whether a value is of the kind of the example; floats are above 0, lists may not be empty."""
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(_like(one, example[0], least) for one in value)
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    if isinstance(example, int):
        return isinstance(value, int) and not isinstance(value, bool) and value >= least
    return isinstance(value, type(example)) and (bool(value) or not isinstance(value, str))
