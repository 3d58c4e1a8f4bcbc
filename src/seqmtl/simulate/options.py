"""What simulations are asked for, and what makes no sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqmtl.errors import SeqmtlError

WHERE = "dataset.prepare.simulate"
RANGES: dict[str, tuple[float, float, str]] = {
    "rows": (100, float("inf"), "must be at least 100"),
    "relatedness": (-1, 1, "must lie between -1 and 1"),
    "oracle_auc": (0.5, 0.95, "must lie between 0.5 and 0.95"),
    "interaction": (0, 1, "must lie between 0 and 1"),
    "history": (0, 1, "must lie between 0 and 1"),
    "own": (0, 1, "must lie between 0 and 1"),
    "drift": (0, 2, "must lie between 0 (the weights stay) and 2 (they turn into their opposite)"),
    "zipf": (0, float("inf"), "must not be negative"),
    "seed": (0, float("inf"), "must not be negative"),
}
WHOLE = ("rows", "train_rows", "test_rows", "seed")
ABOVE_0 = ("train_rows", "test_rows", "rows_per_user", "rows_per_item")


def check(options: Mapping[str, Any]) -> None:
    """Refuses numbers that are none, or out of their range."""
    for name, value in options.items():
        kinds = (int,) if name in WHOLE else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise SeqmtlError(f"{WHERE}: {name} must be {'a whole' if kinds == (int,) else 'a'} number, not {value!r}")
        low, high, what = RANGES.get(name, (0, float("inf"), "must be above 0"))
        if not low <= value <= high or (name in ABOVE_0 and value == 0) or value == float("inf"):
            raise SeqmtlError(f"{WHERE}: {name} {what}; the options are {dict(options)}")


def chosen_rates(
    rates: str | Mapping[str, float], named: Mapping[str, Mapping[str, float]], parents: Mapping[str, str | None]
) -> dict[str, float]:
    """The rate of every task, of all impressions.

    Args:
        rates: a name of `named`, or {task: rate}.
        parents: the tasks; a child must be rarer than its parent.
    """
    chosen = named.get(rates) if isinstance(rates, str) else rates
    if not isinstance(chosen, Mapping) or set(chosen) != set(parents):
        wanted = ", ".join(f"{task}: {letter}" for task, letter in zip(parents, "xyzw", strict=False))
        raise SeqmtlError(f"dataset.rates must be {', '.join(named)} or {{{wanted}}}, not {rates!r}")
    for task, parent in parents.items():
        rate = chosen[task]
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise SeqmtlError(f"{WHERE}: rates.{task} must be a number, not {rate!r}")
        if not 0 < rate < 1:
            raise SeqmtlError(f"{WHERE}: rates.{task} must lie between 0 and 1, not {rate}")
        if parent is not None and not rate < chosen[parent]:
            raise SeqmtlError(
                f"{WHERE}: rates.{task} ({rate}) must be below rates.{parent} ({chosen[parent]}), without which there is none"
            )
    return {task: float(chosen[task]) for task in parents}
