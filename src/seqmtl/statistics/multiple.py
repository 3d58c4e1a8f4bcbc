"""Many comparisons at once: Holm, Scandinavian Journal of Statistics 6 (1979), https://www.jstor.org/stable/4615733."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p values after Holm's correction, in the order given: the i-th smallest of n times n - i + 1, never falling, at most 1.

    It holds the chance of any false finding among the n at the level, whatever the dependence between them. None (there
    is no p) stays None and does not count.
    """
    order = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for i, (value, place) in enumerate(order):
        highest = max(highest, min(1.0, value * (len(order) - i)))
        adjusted[place] = highest
    return adjusted
