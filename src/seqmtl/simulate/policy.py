"""A policy run forward: what users did before is part of what they do next.

A user has for each behaviour b (clicks, skips, …) one vector of the items it was shown to,

    h_b ← DECAY * h_b + sqrt(1 - DECAY^2) * (v(item) - usual_b)   after an impression with that behaviour; 0 at first,

and the log-odds of step t get sum_b sign_tb * sqrt(taste_tb) * <theta_tb, h_b / sqrt(1 + |h_b|^2 / LATENT) * v(item)>, scaled to
`history` of the variance. usual_b is the mean of everybody's: without it a history would mostly say what everybody likes. The root
keeps users who do the same thing over and over from doing it with certainty.

Unusual: rows of many users are made in rounds. Round k holds the k-th row of every user in the chunk, so the loop runs over time
and never over rows; the vectors of all users stay in memory between chunks, the rows do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqmtl.simulate.truth import Bools, Floats, Funnel, Ints, Weights, alike, strength, times

DECAY = 0.8  # of what is remembered, per item: the last five weigh most, 50 are as good as all
GAIN = float(np.sqrt(1 - DECAY**2))
LATENT = 4
ATTEMPTS = 8  # of a fit
MOST = 3.0  # times: a history that is mostly empty is not blown up beyond this to have its share


@dataclass
class Rows:
    """Impressions in an order in which those of a user are in time order."""

    user: Ints
    """(rows,), the number of its state."""
    item: Floats
    """(rows, LATENT), the vector."""
    blocks: dict[str, Floats]
    """What is not history, of the signal."""
    time: Floats
    """(rows,), from 0 to 1."""


class Policy:
    """What users do.

    Args:
        weights: of the blocks that are not history.
        behaviours: (task, whether it happened) that each history is made of.
        taste: (T, behaviours): share of each behaviour in the history's signal of each task, with its sign.
        history: share of the signal's variance.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        weights: Weights,
        funnel: Funnel,
        behaviours: Sequence[tuple[int, bool]],
        taste: Floats,
        relatedness: float,
        drift: float,
        history: float,
    ) -> None:
        self.weights, self.funnel, self.history = weights, funnel, history
        self.tasks = [task for task, _ in behaviours]
        self.happened = np.array([happened for _, happened in behaviours])
        signed = np.sign(taste) * np.sqrt(np.abs(taste))
        theta = [signed[:, b, None] * alike(rng, funnel.parents, LATENT, relatedness) for b in range(len(behaviours))]
        self.past = Weights({"history": np.concatenate(theta, axis=1)}, drift)
        self.past.stretch(np.sqrt(history))
        self.usual = np.zeros((len(behaviours), LATENT))

    def state(self, users: int) -> NDArray[np.float32]:
        """Empty histories."""
        return np.zeros((users, len(self.tasks), LATENT), np.float32)

    def play(self, rows: Rows, uniform: Floats, state: NDArray[np.float32]) -> tuple[Floats, Bools]:
        """The signals and what happens, (rows, T) each; `state` goes on to the time after them."""
        return self._play(rows, self.weights.signal(rows.blocks, rows.time), uniform, state)

    def _play(self, rows: Rows, fixed: Floats, uniform: Floats, state: NDArray[np.float32]) -> tuple[Floats, Bools]:
        order, bounds = rounds(rows.user)
        user, item, uniform, signal = rows.user[order], rows.item[order].astype(np.float32), uniform[order], fixed[order]
        happens = np.empty(signal.shape, bool)
        start, end = (matrix.astype(np.float32) for matrix in self.past.matrices(["history"]))
        angle = rows.time[order, None] * self.past.angle
        cos, sin = np.cos(angle), np.sin(angle)
        usual = self.usual.astype(np.float32)
        for first, last in pairwise(bounds):
            here = slice(first, last)
            u, v = user[here], item[here]
            past = state[u]
            likeness = past * v[:, None]
            likeness /= np.sqrt(1 + np.einsum("ubl,ubl->ub", past, past) / LATENT)[:, :, None]
            likeness = likeness.reshape(last - first, -1)
            signal[here] += times(likeness, start) * cos[here]
            if self.past.angle:
                signal[here] += times(likeness, end) * sin[here]
            happens[here] = self.funnel.draw(signal[here], uniform[here])
            row, behaviour = np.nonzero(happens[here][:, self.tasks] == self.happened)
            state[u[row], behaviour] = DECAY * past[row, behaviour] + GAIN * (v[row] - usual[behaviour])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return signal[back], happens[back]

    def fit(self, rows: Rows, users: int, uniform: Floats, shares: Mapping[str, float], auc: float) -> None:
        """Finds scales, strength and intercepts: such that the policy, when it acts on them, has what is asked for.

        Args:
            rows: of whole users, over the whole time.
            shares: of the signal's variance, of the blocks that are not history.
            auc: of the true probabilities of the first task.
        """
        self.weights.share(rows.blocks, rows.time, shares)
        fixed = self.weights.signal(rows.blocks, rows.time)
        self.funnel.solve(fixed)
        reached = 1.0
        for attempt in range(ATTEMPTS):
            signal, happens = self._play(rows, fixed, uniform, self.state(users))
            if attempt < ATTEMPTS - 2:  # the last two are for the intercepts
                did = happens[:, self.tasks] == self.happened
                usual = np.einsum("ib,il->bl", did.astype(np.float64), rows.item) / np.maximum(did.sum(axis=0), 1)[:, None]
                self.usual = (self.usual + usual) / 2
                past = signal - fixed
                factor = self._factor(past / reached, self.past.scale["history"] / reached)
                thin = max(1, len(signal) // 20_000)
                unit = (fixed + factor * past)[::thin, 0] / reached
                more = strength(unit, self.funnel.rates[0], auc) / reached
                reached *= more
                self.past.scale["history"] *= factor * more
                self.weights.stretch(more)
                signal, fixed = (fixed + factor * past) * more, fixed * more
            self.funnel.solve(signal)

    def _factor(self, past: Floats, scale: Floats) -> Floats:
        """By how much the histories' scales change, half the way (of its logarithm): what users do changes with them."""
        wanted = np.sqrt(self.history)
        if not wanted:
            return np.ones(len(scale))
        most = MOST * wanted / scale
        return np.sqrt(np.minimum(wanted / np.maximum(past.std(axis=0), 1e-9), most))


def rounds(user: Ints) -> tuple[Ints, list[int]]:
    """An order of the rows by how many of their user come before them, and where each round begins and the last one ends."""
    by_user = np.argsort(user, kind="stable")
    new = np.flatnonzero(np.diff(user[by_user], prepend=-1))
    count = np.diff(new, append=len(user))
    rank = np.empty(len(user), np.int32)
    rank[by_user] = np.arange(len(user)) - np.repeat(new, count)
    order = np.argsort(rank, kind="stable")
    return order, [0, *np.cumsum(np.bincount(rank)).tolist()]
