"""Systems compared over several datasets or tasks by their ranks: Demšar, JMLR 7 (2006), https://jmlr.org/papers/v7/demsar06a.html.

With ranks r of k systems in each of N blocks (1 is best, ties at their average) and R their means,

    Friedman        χ² = 12N/(k(k+1)) · (Σ R² - k(k+1)²/4), divided by 1 - Σ(t³ - t)/(N k(k²-1)) for ties of t systems
    Iman-Davenport  F = (N-1) χ² / (N(k-1) - χ²), with k-1 and (k-1)(N-1) degrees of freedom
    Nemenyi         CD = q_α √(k(k+1)/(6N)): mean ranks that far apart differ;  q_α: studentized range ÷ √2

A block must be independent of the others: datasets or tasks are, seeds of one dataset are so only with respect to training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Friedman:
    """Test of "all systems are the same": χ² with its p, and the less conservative F of Iman and Davenport with its p."""

    chi2: float
    p: float
    f: float
    f_p: float


def average_ranks(values: npt.ArrayLike, better: float = 1) -> npt.NDArray[np.float64]:
    """Mean rank of each system.

    Args:
        values: (blocks, systems) of a metric.
        better: +1 where more is better, -1 where less is.

    Returns:
        (systems,), 1 is the best. Errors: ValueError for NaN, which has no rank, or where there is nothing to rank.
    """
    return _ranks(values, better).mean(0)


def friedman(values: npt.ArrayLike, better: float = 1) -> Friedman:
    """Friedman's test of (blocks, systems), at least two of each; p = 1 where all tie in every block.

    Where all blocks agree in everything, F is infinite and its p is 0; χ² is finite always.
    """
    from scipy.stats import chi2 as chi2_distribution
    from scipy.stats import f as f_distribution

    ranks = _ranks(values, better)
    blocks, systems = ranks.shape
    if blocks < 2:
        raise ValueError("one block has no test; at least two are needed")
    # Ties take Σ(t³ - t)/12 from the sum of squared ranks, so dividing by that sum itself corrects for them.
    spread = ((ranks - (systems + 1) / 2) ** 2).sum()
    if not spread:
        return Friedman(0.0, 1.0, 0.0, 1.0)
    between = blocks * ((ranks.mean(0) - (systems + 1) / 2) ** 2).sum()
    statistic = float(blocks * (systems - 1) * between / spread)
    free = systems - 1
    left = blocks * free - statistic
    f = (blocks - 1) * statistic / left if left > 1e-9 * blocks * free else math.inf
    return Friedman(
        statistic,
        float(chi2_distribution.sf(statistic, free)),
        f,
        float(f_distribution.sf(f, free, free * (blocks - 1))),
    )


def critical_difference(systems: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's CD: mean ranks of two systems that are at least that far apart differ at level alpha, over all pairs."""
    if systems < 2 or blocks < 1:
        raise ValueError(f"{systems} systems in {blocks} blocks cannot be compared; at least 2 in 1 are needed")
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, systems, math.inf)) / math.sqrt(2)
    return q * math.sqrt(systems * (systems + 1) / (6 * blocks))


def cliques(ranks: Sequence[float] | npt.NDArray[np.float64], difference: float) -> list[tuple[int, ...]]:
    """The bars of the diagram: largest groups of systems whose mean ranks are all less than `difference` apart.

    Returns:
        indices into `ranks`, best first; groups of one are left out, groups may overlap.
    """
    order = sorted(range(len(ranks)), key=lambda i: (ranks[i], i))
    groups: list[tuple[int, ...]] = []
    reached = 0
    for start, system in enumerate(order):
        end = next((e for e in range(start, len(order)) if ranks[order[e]] - ranks[system] >= difference), len(order))
        if end > reached and end - start > 1:
            groups.append(tuple(order[start:end]))
        reached = max(reached, end)
    return groups


def _ranks(values: npt.ArrayLike, better: float) -> npt.NDArray[np.float64]:
    """(blocks, systems) ranks within each block."""
    from scipy.stats import rankdata

    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(f"values have shape {array.shape}; (blocks, systems) with at least two systems are needed")
    if np.isnan(array).any():
        raise ValueError("a value is NaN and has no rank; leave its block out")
    if not better:
        raise ValueError("better is 0: neither more nor less is better, so there are no ranks")
    return np.asarray(rankdata(-better * array, axis=1), np.float64)
