"""The mathematics that the simulators share: weights that turn with time, steps of a funnel, and what is solved for.

    log-odds of step t, given what must come before = a_t + strength * sum_b <theta_tb(time), phi_b>
    theta_t = relatedness * theta_parent + sqrt(1 - relatedness^2) * eta_t,   eta_t a direction of its own

phi_b are blocks of LATENT numbers (user, item, context, user * item, a history * item), each of mean 0 and variance 1.

Unusual: the drift turns all weights by one angle, in planes that do not meet, so that at any time the relatedness of two steps is
what it was, and `drift` is exactly 1 - the correlation of the first row's weights with the last row's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def times(x: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """x @ matrix, but not by BLAS: its threads gain nothing on so narrow ones, lose much on a busy machine, and round otherwise."""
    product: NDArray[Any] = np.einsum("ij,jk->ik", x, matrix)
    return product


def intercept(signal: Floats, weight: Floats, rate: float) -> float:
    """a such that the mean of weight * sigmoid(a + signal) is `rate`."""
    thin = slice(None, None, max(1, len(signal) // 2000))
    low, high = -40.0, 40.0
    for _ in range(24):  # bisection on some rows
        a = (low + high) / 2
        low, high = (a, high) if (weight[thin] * sigmoid(a + signal[thin])).mean() < rate else (low, a)
    for _ in range(5):  # Newton's steps from there on all
        p = sigmoid(a + signal)
        reached = (weight * p).mean()
        a += np.clip(np.log(rate / reached) * reached / (weight * p * (1 - p)).mean(), -1, 1)
    return float(a)


def strength(signal: Floats, rate: float, auc: float) -> float:
    """s such that sigmoid(a + s * signal) with mean `rate` has this AUC as a score of its own outcome."""
    signal = np.sort(signal)
    low, high = 0.0, 8.0
    for _ in range(18):
        middle = (low + high) / 2
        p = sigmoid(intercept(middle * signal, np.ones_like(signal), rate) + middle * signal)
        below = np.cumsum(1 - p) - (1 - p) / 2  # negatives ranked below each row, half of its own
        reached = (p * below).sum() / (p.sum() * (1 - p).sum())
        low, high = (middle, high) if reached < auc else (low, middle)
    return (low + high) / 2


def directions(rng: np.random.Generator, parents: Sequence[int | None], size: int, relatedness: float) -> Floats:
    """theta of every step, unit vectors (T, size); that of a step has correlation `relatedness` with its parent's."""
    own = np.linalg.qr(rng.standard_normal((size, size)))[0].T  # orthonormal
    return _related(own, parents, relatedness)


def alike(rng: np.random.Generator, parents: Sequence[int | None], size: int, relatedness: float) -> Floats:
    """The same for a history: the first step's theta counts all directions alike, so that likeness to past items matters."""
    first = np.full((1, size), size**-0.5)
    own = np.linalg.qr(np.concatenate([first, rng.standard_normal((size - 1, size))]).T)[0].T
    return _related(own * np.sign(own[0, 0]), parents, relatedness)


def _related(own: Floats, parents: Sequence[int | None], relatedness: float) -> Floats:
    theta: list[Floats] = []
    for t, parent in enumerate(parents):
        theta.append(own[t] if parent is None else relatedness * theta[parent] + np.sqrt(1 - relatedness**2) * own[t])
    return np.array(theta)


class Weights:
    """What turns phi into the signal of every step.

    Args:
        theta: {block: (T, size)}, sizes even.
        drift: 1 - correlation of the weights at time 0 and time 1.
    """

    def __init__(self, theta: Mapping[str, Floats], drift: float) -> None:
        self.theta = dict(theta)
        self.steps = len(next(iter(theta.values())))
        self.scale = {block: np.ones(len(of)) for block, of in theta.items()}
        self.angle = float(np.arccos(np.clip(1 - drift, -1, 1)))

    def signal(self, phi: Mapping[str, Floats], time: Floats | float) -> Floats:
        """(rows, T) of the blocks in `phi`, at a time from 0 to 1 for each row or for all."""
        start = np.zeros((len(next(iter(phi.values()))), self.steps))
        end = np.zeros_like(start) if self.angle else start
        for block, x in phi.items():
            at_start, at_end = self.matrices([block])
            start += times(x, at_start)
            if self.angle:
                end += times(x, at_end)
        angle = np.asarray(time).reshape(-1, 1) * self.angle
        return np.cos(angle) * start + np.sin(angle) * end if self.angle else start

    def matrices(self, blocks: Sequence[str]) -> tuple[Floats, Floats]:
        """The weights of the stacked blocks (size, T) at the angles 0 and 90 degrees; those between are their mixtures."""
        start = np.concatenate([(self.theta[b] * self.scale[b][:, None]).T for b in blocks])
        end = np.concatenate([(turned(self.theta[b]) * self.scale[b][:, None]).T for b in blocks])
        return start, end

    def share(self, phi: Mapping[str, Floats], time: Floats | float, shares: Mapping[str, float]) -> None:
        """Sets the scales so that each block has its share of the signal's variance on these rows."""
        for block, share in shares.items():
            self.scale[block] = np.ones(len(self.theta[block]))
            deviation = self.signal({block: phi[block]}, time).std(axis=0)
            self.scale[block] = np.sqrt(share) / np.maximum(deviation, 0.05)  # of a few rows it may be 0

    def stretch(self, factor: float) -> None:
        """Multiplies all weights."""
        self.scale = {block: of * factor for block, of in self.scale.items()}


def turned(theta: Floats) -> Floats:
    """Every vector turned by 90 degrees, in the planes of its 1st and 2nd, 3rd and 4th … number."""
    pairs = theta.reshape(len(theta), -1, 2)
    return np.stack([-pairs[:, :, 1], pairs[:, :, 0]], axis=2).reshape(theta.shape)


class Funnel:
    """The steps: which comes after which, how likely they are; the intercepts that make them so.

    Args:
        parents: number of the step that comes before each, or None.
        rates: of all impressions.
        stray: share of a child's positives that happen without the parent (0: never).
    """

    def __init__(self, parents: Sequence[int | None], rates: Sequence[float], stray: float = 0) -> None:
        self.parents, self.rates, self.stray = list(parents), list(rates), stray
        self.after = np.zeros(len(rates))  # intercept where the parent happened
        self.without = np.full(len(rates), -np.inf)  # and where it did not

    def solve(self, signal: Floats) -> None:
        """Finds the intercepts that give the rates on rows with these signals (N, T)."""
        p = np.empty_like(signal)
        for t, (parent, rate) in enumerate(zip(self.parents, self.rates, strict=True)):
            s = np.ascontiguousarray(signal[:, t])
            before = np.ones(len(s)) if parent is None else p[:, parent]
            stray = 0 if parent is None else self.stray
            self.after[t] = intercept(s, before, rate * (1 - stray))
            p[:, t] = before * sigmoid(self.after[t] + s)
            if stray:
                self.without[t] = intercept(s, 1 - before, rate * stray)
                p[:, t] += (1 - before) * sigmoid(self.without[t] + s)

    def probabilities(self, signal: Floats) -> Floats:
        """P(step) over all impressions, (N, T), given all that the signal is made of, not the row's other steps."""
        p = sigmoid(self.after + signal)
        for t, parent in enumerate(self.parents):
            if parent is not None:
                before = p[:, parent]
                p[:, t] *= before
                if self.stray:
                    p[:, t] += (1 - before) * sigmoid(self.without[t] + signal[:, t])
        return p

    def missed(self, tally: Tally) -> float:
        """By how many standard errors the mean probability of these rows misses the rate, where it is most."""
        rates = np.array(self.rates)
        return float((np.abs(tally.probability / tally.rows - rates) / np.sqrt(rates * (1 - rates) / tally.rows)).max())

    def correct(self, tally: Tally, step: float) -> None:
        """Moves the intercepts by a Newton step (times `step`) towards mean probabilities of these rows that are the rates."""
        mean, slope = tally.probability / tally.rows, tally.slope / tally.rows
        for t, (parent, rate) in enumerate(zip(self.parents, self.rates, strict=True)):
            wanted = np.log(rate / mean[t]) - (0 if parent is None else np.log(self.rates[parent] / mean[parent]))
            shift = step * float(np.clip(wanted * mean[t] / slope[t], -1, 1))
            self.after[t] += shift
            self.without[t] += shift

    def draw(self, signal: Floats, uniform: Floats) -> Bools:
        """What happens, (N, T)."""
        with np.errstate(over="ignore"):
            happens: Bools = uniform < sigmoid(self.after + signal)
            for t, parent in enumerate(self.parents):
                if parent is not None and self.stray:
                    stray = uniform[:, t] < sigmoid(self.without[t] + signal[:, t])
                    happens[:, t] = np.where(happens[:, parent], happens[:, t], stray)
                elif parent is not None:
                    happens[:, t] &= happens[:, parent]
        return happens


class Tally:
    """Sums over rows: how likely the steps were, and how fast that changes with the intercepts."""

    def __init__(self, parents: Sequence[int | None]) -> None:
        self.parents = list(parents)
        self.rows = 0
        self.probability = np.zeros(len(parents))
        self.slope = np.zeros(len(parents))

    def add(self, p: Floats) -> None:
        """Adds rows (N, T)."""
        before = np.column_stack([np.ones(len(p)) if parent is None else p[:, parent] for parent in self.parents])
        self.rows += len(p)
        self.probability += p.sum(axis=0)
        self.slope += (p * (1 - np.minimum(p / before, 1))).sum(axis=0)
