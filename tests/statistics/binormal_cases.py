"""Models whose true AUC, and whose variance over test sets, are known in closed form.

A score is N(0,1) on negatives and N(μ,1) on positives, so AUC = Φ(μ/√2). Two models that share a part ρ of their noise
are paired; what is shared within a user makes its rows dependent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import multivariate_normal, norm


def true_auc(mu: float) -> float:
    return float(norm.cdf(mu / math.sqrt(2)))


def true_variance(mu: float, positives: int, negatives: int) -> float:
    """Of the AUC of one model over test sets of this size (Bamber, 1975)."""
    area, delta = true_auc(mu), mu / math.sqrt(2)
    # Two positives above one negative, and one positive above two negatives: of equal chance for equal variances.
    both = float(multivariate_normal(cov=[[1, 0.5], [0.5, 1]]).cdf([delta, delta]))
    pairs = (positives + negatives - 2) * (both - area**2)
    return (area * (1 - area) + pairs) / (positives * negatives)


@dataclass(frozen=True)
class Split:
    """One simulated test set: scores of two models by seed, labels, users."""

    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]
    y: npt.NDArray[np.int8]
    user: npt.NDArray[np.int64]


def rows(rng: np.random.Generator, positives: int, negatives: int, mu_a: float, mu_b: float, shared: float = 0.0) -> Split:
    """Independent rows; `shared` is the correlation of the two models' noise within a class."""
    y = np.repeat([1, 0], [positives, negatives]).astype(np.int8)
    noise = _noise(rng, len(y), shared)
    return Split((noise[:1] + mu_a * y).astype(np.float32), (noise[1:] + mu_b * y).astype(np.float32), y, np.arange(len(y)))


def of_users(rng: np.random.Generator, users: int, mu_a: float, mu_b: float, mean_rows: float = 8, taste: float = 0.6) -> Split:
    """Users with rows whose scores share a part of their noise, `taste` of the variance, of its own for each model."""
    user = np.repeat(np.arange(users), 1 + rng.poisson(mean_rows - 1, users))
    # Users differ in how often they click, so the two classes come from other users.
    y = (rng.random(len(user)) < rng.beta(0.6, 0.9, users)[user]).astype(np.int8)
    own = np.sqrt(taste) * rng.normal(size=(2, users))[:, user]
    score = own + np.sqrt(1 - taste) * rng.normal(size=(2, len(user)))
    return Split((score[:1] + mu_a * y).astype(np.float32), (score[1:] + mu_b * y).astype(np.float32), y, user)


def _noise(rng: np.random.Generator, count: int, shared: float) -> npt.NDArray[np.float64]:
    return np.sqrt(shared) * rng.normal(size=count) + np.sqrt(1 - shared) * rng.normal(size=(2, count))
