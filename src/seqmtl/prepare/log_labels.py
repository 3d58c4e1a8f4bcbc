"""Labels that break the order of the steps: a child without its parent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.past import Bools

HOW = ("fix", "drop", "error", "keep")


class StepOrder:
    """What happens to such rows: `fix` lowers the child to 0, `drop` leaves the row out, `error` stops, `keep` counts.

    Attributes:
        fixed, dropped, kept: how many, by reason; a dropped row once, under the first rule that it breaks.
    """

    def __init__(self, parents: Mapping[str, str | None], how: str) -> None:
        if how not in HOW:
            raise SeqmtlError(f"dataset.prepare.on_order_violation must be {', '.join(HOW[:-1])} or {HOW[-1]}, not {how!r}")
        self.edges = [(task, parent) for task, parent in parents.items() if parent is not None]
        self.how = how
        self.fixed: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()

    def check(self, labels: dict[str, NDArray[Any]], row: NDArray[np.int64]) -> Bools:
        """(n,) which rows stay; lowers labels where that is asked for.

        Args:
            row: (n,) number of the raw row, for the message.
        """
        stay = np.ones(len(row), np.bool_)
        for task, parent in self.edges:
            broken = (labels[task] == 1) & (labels[parent] == 0)
            reason, n = f"{task}_without_{parent}", int(broken.sum())
            if not n:
                continue
            if self.how == "fix":  # parents stand before their children, so what is lowered here is seen by what hangs on it
                labels[task] = np.where(broken, 0, labels[task]).astype(np.int8)
                self.fixed[reason] += n
            elif self.how == "drop":
                self.dropped[reason] += int((broken & stay).sum())
                stay &= ~broken
            elif self.how == "keep":
                self.kept[reason] += n
            else:
                raise SeqmtlError(
                    f"labels break the order of the steps: {reason} in {n} rows, the first is row {row[broken][0]} of the log"
                    " (counted from 0). dataset.prepare.on_order_violation=fix lowers such labels, drop leaves the rows out,"
                    " keep keeps them"
                )
        return stay
