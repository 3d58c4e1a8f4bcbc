"""How numbers are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tables_by_hand import CLICK, LOSS, cell, over_rows, over_seeds, small_table

from seqmtl.tables import formats
from seqmtl.tables.content import Cell, Published


def test_mean_and_deviation() -> None:
    assert formats.mean_std(cell({1: 0.65, 2: 0.655})) == "0.6525 ± 0.0035"
    assert formats.mean_std(cell({1: 0.65})) == "0.6500"
    assert formats.mean_std(cell({1: 0.65, 2: None})) == "undefined"
    assert formats.mean_std(Cell()) == "×"
    assert formats.mean_std(None) == "–"
    assert formats.number(float("nan")) == "undefined"


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [(0.0655, "absolute", "+0.0655"), (-0.0064, "absolute", "-0.0064"), (0.0707, "relative", "+7.07 %"), (None, "absolute", "–")],
)
def test_gain(value: float | None, kind: str, shown: str) -> None:
    assert formats.gain(value, kind) == shown


@pytest.mark.parametrize(
    ("printed", "places", "shown"),
    [
        (Published(0.61), 4, "0.6100"),
        (Published(0.6525, 0.0024, "**"), 4, "0.6525 ± 0.0024"),
        (Published(0.00012345), 4, "0.00012345"),
        (Published(1177.0), None, "1177"),
        (Published(1.79), None, "1.79"),
        (None, 4, "–"),
    ],
)
def test_published_keeps_the_digits_of_the_paper(printed: Published | None, places: int | None, shown: str) -> None:
    assert formats.published(printed, places) == shown


def test_decimals_follow_the_rarest_task() -> None:
    """LogLoss of 0.0018 has nothing to say in four decimals; an AUC always has four."""
    part = small_table().parts[0]
    assert formats.decimals(part, CLICK) == 4
    assert formats.decimals(part, LOSS) == 6  # the oracle's 0.00171 is the least
    assert formats.decimals(part, replace(LOSS, key="none.logloss")) == 4
    assert formats.decimals(part, replace(CLICK, metric="occurrences")) == 2
    assert formats.decimals(part, replace(CLICK, metric="rows")) is None
    assert (formats.number(12.345678, None), formats.number(12345.6, None)) == ("12.35", "12,346")


def test_stars_need_three_seeds_and_a_better_row() -> None:
    values: dict[int, float | None] = {1: 0.6, 2: 0.61, 3: 0.62}
    assert formats.stars(cell(values, seeds_test=over_seeds("A", 0.01, 0.004)), CLICK) == "**"
    assert formats.stars(cell(values, seeds_test=over_seeds("A", 0.01, 0.04)), CLICK) == "*"
    assert formats.stars(cell(values, seeds_test=over_seeds("A", 0.01, 0.06)), CLICK) == ""
    assert formats.stars(cell(values, seeds_test=over_seeds("A", -0.01, 0.004)), CLICK) == ""
    assert formats.stars(cell(values, seeds_test=over_seeds("A", -0.01, 0.004)), LOSS) == "**"
    assert formats.stars(cell({1: 0.6, 2: 0.61}, seeds_test=over_seeds("A", 0.01, 0.004)), CLICK) == ""
    assert formats.stars(cell(values), CLICK) == formats.stars(None, CLICK) == ""


def test_below_is_after_holm() -> None:
    assert formats.below(cell({1: 0.6}, rows_test=over_rows("A", -0.01, 0.001, 0.04)), CLICK)
    assert not formats.below(cell({1: 0.6}, rows_test=over_rows("A", -0.01, 0.001, 0.06)), CLICK)
    assert not formats.below(cell({1: 0.6}, rows_test=over_rows("A", 0.01, 0.001, 0.04)), CLICK)
    assert formats.below(cell({1: 0.6}, rows_test=over_rows("A", 0.01, 0.001, 0.04)), LOSS)
    assert formats.below(cell({1: 0.6}, rows_test=replace(over_rows("A", -0.01, 0.001, 0), adjusted=None)), CLICK)
    assert not formats.below(None, CLICK)


def test_other_numbers() -> None:
    assert (formats.p_value(0.00001), formats.p_value(0.01234), formats.p_value(None)) == ("< 0.0001", "0.0123", "–")
    assert formats.interval((-0.0031, 0.0042)) == "[-0.0031, 0.0042]"
    assert (formats.share(389, 10000), formats.share(2, 10000), formats.share(0, 10), formats.share(1, 0)) == (
        "3.89 %",
        "0.0200 %",
        "0.00 %",
        "–",
    )
    assert (formats.share(10, 10), formats.share(9996, 10000)) == ("100 %", "100.0 %")
    assert (formats.amount(1234567.0), formats.amount(12.345), formats.amount(0.0841)) == ("1,234,567", "12.3", "0.0841")
    assert (formats.listed("abc"), formats.listed("a")) == ("a, b and c", "a")
    assert formats.shortened("  a reason\nof two lines", 6) == "a rea…"
