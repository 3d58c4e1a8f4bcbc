"""Mean and deviation over seeds against numpy, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from seqmtl.report import plus_minus
from seqmtl.statistics.mean import mean_and_std


def test_equals_numpy() -> None:
    values = np.random.default_rng(1).uniform(0.6, 0.61, 5)
    assert mean_and_std(list(values)) == (pytest.approx(values.mean(), rel=1e-14), pytest.approx(values.std(ddof=1), rel=1e-12))


@pytest.mark.parametrize(
    ("values", "found", "shown"),
    [
        ([0.5, 0.75], (0.625, 0.03125**0.5), "0.6250 ± 0.1768"),
        ([0.5], (0.5, None), "0.5000"),
        ([0.5, 0.5], (0.5, 0.0), "0.5000 ± 0.0000"),
        ([0.5, None, 0.75], (None, None), "undefined"),
        ([], (None, None), "undefined"),
    ],
)
def test_one_value_has_no_deviation_and_an_undefined_one_no_mean(
    values: list[float | None], found: tuple[float | None, float | None], shown: str
) -> None:
    assert mean_and_std(values) == found
    assert plus_minus(values) == shown
