"""What a user did before each of its rows: causal histories, as flat arrays with an end and a length for each row.

    flat[end - len : end] of a row = the items of the same user's earlier rows that have the behaviour, oldest first

Unusual: one running count per behaviour gives all of it. Rows that have the behaviour write their items one after another; what
stands before a row is what was counted before it, less what was counted before the user's first row. The row itself, and
everything after it, cannot get in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.draws import uniform
from seqmtl.errors import SeqmtlError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass
class Past:
    """A behaviour: flat (items,), and of each row end (n,) int64 and length (n,) int32."""

    flat: NDArray[Any]
    end: Ints
    length: NDArray[np.int32]


def first_rows(user: NDArray[Any]) -> Ints:
    """(n,) the place of the first row of each row's user, where rows of one user stand together."""
    new = np.ones(len(user), np.bool_)
    np.not_equal(user[1:], user[:-1], out=new[1:])
    return np.flatnonzero(new)[np.cumsum(new) - 1]


def past(first: Ints, items: NDArray[Any], happened: Bools, window: int | None = None, until: Ints | None = None) -> Past:
    """The history of one behaviour.

    Args:
        first: what `first_rows` says; the rows of a user are in the order of time.
        items: (n,) the item of each row.
        happened: (n,) rows that have the behaviour.
        window: only those of the user's last so many rows; None: of all.
        until: (n,) the row before which the history of a row ends; None: the row itself.
    """
    before: Ints = np.cumsum(happened) - happened
    oldest = first if window is None else np.maximum(first, np.arange(len(first)) - window)
    end = before if until is None else before[until]
    return Past(items[happened], end, (end - before[oldest]).astype(np.int32))


@dataclass(frozen=True)
class Negatives:
    """Which skips a history of skips holds: all, each with probability `keep`, or those of the user's last `window` rows."""

    keep: float | None = None
    window: int | None = None

    @staticmethod
    def of(rule: str | Mapping[str, Any]) -> Negatives:
        """From `all`, `{keep_prob: p}` or `{window: n}`.

        Raises:
            SeqmtlError: it is none of them.
        """
        match rule:
            case "all":
                return Negatives()
            case {"keep_prob": int() | float() as p, **rest} if 0 < p <= 1 and not rest:
                return Negatives(keep=float(p))
            case {"window": int() as n, **rest} if n > 0 and not rest:
                return Negatives(window=n)
        raise SeqmtlError(
            "dataset.prepare.negative must be all, {keep_prob: p} with p above 0 and at most 1, or {window: n} with n rows above 0,"
            f" not {rule!r}"
        )

    def kept(self, row: Ints, stream: int) -> Bools | np.bool_:
        """(n,) which rows may be stored; the same ones however the rows are cut into pieces."""
        return np.True_ if self.keep is None else uniform(row, 0, stream) < self.keep
