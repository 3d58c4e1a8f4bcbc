"""Random numbers that belong to a row or a user and not to the order in which these are looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def uniform(number: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.float64]:
    """A random number in [0, 1) for each `number`, which depends on it, `seed` and `stream` alone (splitmix64)."""
    key = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    x = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
