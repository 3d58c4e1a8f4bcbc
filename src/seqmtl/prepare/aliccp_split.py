"""Which kept rows of Ali-CCP's training part become validation."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError

REPLAY_SEED, REPLAY_SHARE = 2020, 0.1  # AITM's script


class Split:
    """One draw for each kept row, in the order of the file.

    Args:
        kind: `replay` draws what AITM's script draws, from Python's generator; `random` draws from numpy's.
        valid_share: share of validation; `seed`: of the generator.

    Raises:
        SeqmtlError: the options make no sense, or `replay` is asked for another share or seed than the script's.
    """

    def __init__(self, kind: str, valid_share: float, seed: int) -> None:
        if kind not in ("replay", "random"):
            raise SeqmtlError(f"dataset.prepare.split must be replay or random, not {kind!r}")
        if not 0 < valid_share < 1:
            raise SeqmtlError(f"dataset.prepare.valid_share must lie between 0 and 1, not {valid_share}")
        for name, value, own in (("split_seed", seed, REPLAY_SEED), ("valid_share", valid_share, REPLAY_SHARE)):
            if kind == "replay" and value != own:
                raise SeqmtlError(
                    f"dataset.prepare.split=replay repeats the split of AITM's script, whose {name} is {own}, not {value};"
                    " with dataset.prepare.split=random any other is possible"
                )
        self.lowest = 1 - valid_share
        self.generator = python_generator(seed) if kind == "replay" else np.random.default_rng(seed)

    def valid(self, n: int) -> NDArray[np.bool_]:
        """(n,) which of the next `n` kept rows are validation."""
        return self.generator.random(n) >= self.lowest


def python_generator(seed: int) -> np.random.Generator:
    """Draws what `random.random()` draws after `random.seed(seed)`: the same twister, set to the same state."""
    state = Random(seed).getstate()[1]
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(state[:-1], np.uint32), "pos": state[-1]}}
    return np.random.Generator(twister)
