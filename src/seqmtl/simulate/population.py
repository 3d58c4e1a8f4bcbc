"""Who and what is met: users, items, contexts, each the sum of the vectors of its attributes and of one that only its id tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from seqmtl.simulate.truth import Floats, Ints


@dataclass
class Side:
    """Users or items: the ids of each field (N,) from 0, the vectors (N, latent), how often each is met (N,), sum 1."""

    ids: dict[str, Ints]
    vectors: Floats
    weight: Floats

    def draw(self, rng: np.random.Generator, rows: int) -> Ints:
        """Numbers of those met in `rows` impressions."""
        return draw(self.weight, rng.random(rows))

    def numbers(self) -> dict[str, NDArray[np.int32]]:
        """What stands in a log for each, whole numbers from 1."""
        return {name: (1 + numbers(ids, int(ids.max()) + 1)).astype(np.int32) for name, ids in self.ids.items()}


def draw(weight: Floats, uniform: Floats) -> Ints:
    """Numbers drawn with these weights, from numbers that are uniform in [0, 1)."""
    cumulated = np.cumsum(weight)
    return np.minimum(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"), len(weight) - 1)


def zipf(n: int, exponent: float) -> Floats:
    """Weights of ranks 1..n, sum 1."""
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weight / weight.sum()


def lognormal(rng: np.random.Generator, n: int, sigma: float, cap: float) -> Floats:
    """Activity of n users, sum 1: a heavy tail, cut at `cap` times the mean."""
    weight = np.exp(sigma * rng.standard_normal(n))
    weight = np.minimum(weight, cap * weight.mean())
    return weight / weight.sum()


def standard(vectors: Floats, weight: Floats) -> Floats:
    """Mean 0 and variance 1 over the impressions; else user * item would leak into the additive part."""
    centred = vectors - (weight[:, None] * vectors).sum(axis=0)
    return centred / np.sqrt(np.maximum((weight[:, None] * centred**2).sum(axis=0), 1e-12))


def side(
    rng: np.random.Generator,
    weight: Floats,
    key: str,
    sizes: Mapping[str, int],
    told: Mapping[str, float],
    *,
    own: float,
    exponent: float,
    latent: int,
) -> Side:
    """Users or items of these weights.

    Args:
        key: the field of their ids.
        sizes: number of values of each attribute; `exponent`: the Zipf exponent of how often each is had.
        told: share of the vector that each attribute tells of what the id alone does not (`own`).
    """
    n = len(weight)
    vectors = np.sqrt(own) * rng.standard_normal((n, latent))
    ids: dict[str, Ints] = {key: np.arange(n)}
    for name, size in sizes.items():
        ids[name] = rng.choice(size, n, p=zipf(size, exponent))
        vectors += np.sqrt((1 - own) * told[name]) * standard(rng.standard_normal((size, latent))[ids[name]], weight)
    return Side(ids, standard(vectors, weight), weight)


def spread(rows: int, ways: int) -> list[Floats]:
    """For each way `rows` numbers that fill [0, 1) more evenly than chance, jointly too.

    Means over rows drawn with them are nearer to the whole's than those over random rows: what is solved for is solved on them.
    """
    i = np.arange(rows) + 0.5
    return [i / rows, *(i * np.sqrt(prime) % 1 for prime in (5, 2, 3, 7, 11)[: ways - 1])]


def numbers(ids: Ints, size: int) -> Ints:
    """Other numbers 0..size-1 for ids 0..size-1: neighbours in popularity are no neighbours in number."""
    factor = 7919
    while gcd(factor, size) > 1:
        factor += 1
    return ids * factor % size


class Places:
    """The context of an impression: attributes that are drawn for themselves, and the sum of their vectors.

    Args:
        weight: {attribute: how often each value is met, sum 1}; `told`: the share of the context's vector that it tells.
    """

    def __init__(self, rng: np.random.Generator, weight: Mapping[str, Floats], told: Mapping[str, float], latent: int) -> None:
        self.weight = dict(weight)
        self.tables = {n: np.sqrt(told[n]) * standard(rng.standard_normal((len(w), latent)), w) for n, w in weight.items()}

    def vectors(self, ids: Mapping[str, Ints]) -> Floats:
        """(rows, latent) of these values."""
        total: Floats = sum(table[ids[name]] for name, table in self.tables.items())
        return total
