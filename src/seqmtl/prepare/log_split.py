"""Which rows of a log are training, validation and test.

Unusual: every rule looks at the number of the raw row, at the row's place among its user's rows, or at the user, and at nothing
else, so that it does not matter in which order, or in what pieces, the rows are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.draws import uniform
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.past import Ints

SPLIT = 1000  # stream of random numbers; the histories use those from 0 on


@dataclass(frozen=True)
class Split:
    """A rule.

    Args:
        kind: `time`: the last raw rows of the log are test, those before them validation.
            `user_tail`: the last rows of each user are test, those before them validation. Of m rows that is m · share, rounded
            to the nearest whole number, halves up: with 0.1 a user with fewer than five rows has training rows alone.
            `random`: each row by a draw. `user_holdout`: all rows of a user by one draw.
        valid_share, test_share: of the rows, or of the users.
        seed: of the draws; the other rules do not read it.

    Raises:
        SeqmtlError: a rule that is not there, or shares that leave nothing for training.
    """

    kind: str
    valid_share: float
    test_share: float
    seed: int

    def __post_init__(self) -> None:
        if not (self.valid_share > 0 and self.test_share > 0 and self.valid_share + self.test_share < 1):
            raise SeqmtlError("dataset.prepare.valid_share and test_share must lie above 0 and leave some rows for training")

    @property
    def of_users(self) -> bool:
        return self.kind in ("user_tail", "user_holdout")

    def places(self, row: Ints, raw_rows: int, user: Ints, place: Ints, of: Ints) -> NDArray[np.int8]:
        """(n,) 0 training, 1 validation, 2 test.

        Args:
            row: (n,) number of the raw row, of `raw_rows`; user: (n,) its user.
            place: (n,) its place among the user's rows, from 0; `of`: (n,) how many these are.
        """
        if self.kind == "time":
            return self._tail(row, np.int64(raw_rows))
        if self.kind == "user_tail":
            return self._tail(place, of)
        draw = uniform(row if self.kind == "random" else user, self.seed, SPLIT)
        return (draw >= 1 - self.test_share - self.valid_share).astype(np.int8) + (draw >= 1 - self.test_share)

    def _tail(self, place: Ints, of: Ints | np.int64) -> NDArray[np.int8]:
        test = np.floor(of * self.test_share + 0.5)
        valid = np.floor(of * self.valid_share + 0.5)
        return (place >= of - test - valid).astype(np.int8) + (place >= of - test)
