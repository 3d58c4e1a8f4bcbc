"""The rates that were asked for, of the very rows that are written.

A truth that is solved on a sample misses the rates of a large file by many standard errors: its users are not everybody. So the
rows are made before they are written, as often as it takes: the same seeds give the same users, items and chances again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from seqmtl.simulate.raw_files import Report
from seqmtl.simulate.truth import Bools, Floats, Funnel, Ints, Tally

RUNS = 6  # at most; 2 are usual
NEAR = 0.3  # standard errors


@dataclass
class Played:
    """A chunk of what happened."""

    met: dict[str, Ints]
    """Who met what, {name: (rows,)}."""
    happens: Bools
    """(rows, T)"""
    probabilities: Floats
    """(rows, T)"""
    rng: np.random.Generator
    """Goes on after them."""


def settle(funnel: Funnel, play: Callable[[], Iterable[Played]], rows: int, report: Report) -> None:
    """Corrects the intercepts until the mean probabilities of all rows, which `play` makes anew each time, are NEAR the rates."""
    before = np.inf
    for run in range(1, RUNS + 1):
        tally = Tally(funnel.parents)
        for played in play():
            tally.add(played.probabilities)
            report(f"finding the rates, run {run}", tally.rows, tally.rows / rows)
        missed = funnel.missed(tally)
        if missed < NEAR:
            return
        funnel.correct(tally, 1 if run < 3 else 0.5)  # strong histories overshoot
        if run > 1 and missed * missed / before < NEAR:  # what is left, if this correction is worth as much as the last one
            return
        before = missed
