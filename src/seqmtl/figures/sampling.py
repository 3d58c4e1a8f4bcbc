"""Which test rows a figure shows: the papers' rules, by numbers alone.

All of them give places of rows in the test split, counted from 0, and draw by a seed: the same rows each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.number]
Places = NDArray[np.int64]


def draw(candidates: Places, n: int, seed: int) -> Places:
    """n of the candidates without repetition, rising; all of them where there are no more."""
    if len(candidates) <= n:
        return np.sort(candidates)
    return np.sort(np.random.default_rng(seed).choice(candidates, n, replace=False))


def ranked(values: Numbers, seed: int) -> Places:
    """The order from the smallest value to the largest; equal ones stand in random order."""
    return np.lexsort((np.random.default_rng(seed).permutation(len(values)), values))


def shares(n: int) -> NDArray[np.float64]:
    """Of n ranks, the share that stands before each: 0, 1/n, …"""
    return np.arange(n) / max(1, n)


def bins(n: int, parts: int) -> NDArray[np.int64]:
    """In which of the equal parts each of n ranks lies: 0 to parts - 1."""
    return np.minimum((shares(n) * parts).astype(np.int64), parts - 1)


def by_confidence(labels: Numbers, logits: Numbers, positives: int, negatives: int, seed: int) -> dict[int, Places]:
    """AITM's Figures 4 and 7: random positives by falling score, and random negatives by rising score.

    Args:
        labels, logits: (N,) of one task.

    Returns:
        {1: places, 0: places}, the surest first.
    """
    of_one, of_none = draw(np.flatnonzero(labels == 1), positives, seed), draw(np.flatnonzero(labels == 0), negatives, seed)
    return {1: of_one[ranked(-logits[of_one], seed)], 0: of_none[ranked(logits[of_none], seed)]}


def log_loss(labels: Numbers, logits: Numbers) -> NDArray[np.float64]:
    """Of each row, (N,)."""
    z = logits.astype(np.float64)
    return np.logaddexp(0, z) - labels * z


def easiest(labels: Numbers, logits: Numbers, places: Places, n: int, seed: int) -> Places:
    """Of some places the n with the smallest LogLoss, the smallest first (AITM's Figure 6)."""
    return places[ranked(log_loss(labels[places], logits[places]), seed)[:n]]


def by_length(lengths: Numbers, above: int, n: int, seed: int) -> tuple[Places, int]:
    """n random rows with more than `above` items (DTRN's Figure 5), and how many rows have that many.

    Where there are fewer than n the longest of the others are taken too, but no row without items.
    """
    enough = np.flatnonzero(lengths > above)
    if len(enough) >= n:
        return draw(enough, n, seed), len(enough)
    order = ranked(-lengths, seed)[:n]
    return np.sort(order[lengths[order] > 0]), len(enough)


def extremes(rates: Numbers, share: float, most: int, seed: int) -> dict[str, Places]:
    """APEM's Figure 7 (b): the rows with the highest and the lowest rates, and as many around the median; `most` of each."""
    order = ranked(rates, seed)
    n = max(1, round(share * len(order)))
    middle = (len(order) - n) // 2
    groups = {"top": order[-n:], "middle": order[middle : middle + n], "bottom": order[:n]}
    return {name: draw(places, most, seed) for name, places in groups.items()}
