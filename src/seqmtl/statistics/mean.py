"""Mean and deviation over seeds, as every table and figure shows them.

Unusual: without numpy, since the terminal's tables are made before anything else needs it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean_and_std(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1), which one value alone has not.

    Args:
        values: of a metric, by seed; where one is undefined (None), or there is none, so are both.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None
