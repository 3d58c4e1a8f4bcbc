"""How numbers are shown in every form of a table that people read: `0.6525 ± 0.0024`, `+0.0655`, `+7.07 %`, `p < 0.0001`.

Unusual: LogLoss gets as many decimals as the rarest task of its column needs; four of them say nothing at a rate of 2e-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from seqmtl.tables.content import Cell, Column, Part, Published

ABSENT = "–"  # the row has no such column
NONE = "×"  # no seed finished
UNDEFINED = "undefined"  # a split with one class
FEWEST_SEEDS = 3  # for stars
DECIMALS = {"auc": 4, "gain": 2, "gain_seen": 2, "occurrences": 2}


def decimals(part: Part, column: Column) -> int | None:
    """Decimals of a column; None: four significant digits, whatever the size."""
    if column.metric in DECIMALS:
        return DECIMALS[column.metric]
    if column.metric != "logloss":
        return None
    cells = [row.cells[column.key].mean for row in part.table_rows if column.key in row.cells]
    known = [abs(mean) for mean in (*cells, part.oracle.get(column.key)) if mean]
    return min(8, max(4, 3 - math.floor(math.log10(min(known))))) if known else 4


def number(value: float | None, places: int | None = 4) -> str:
    """`places` decimals; None: four significant digits, and no fewer than all digits before the point."""
    if value is None or math.isnan(value):
        return UNDEFINED
    if places is None:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.{places}f}"


def mean_std(cell: Cell | None, places: int | None = 4) -> str:
    """Mean ± standard deviation over the seeds, or why there is none."""
    if cell is None:
        return ABSENT
    if not cell.values and cell.mean is None:
        return NONE
    mean = number(cell.mean, places)
    return mean if cell.std is None or cell.mean is None else f"{mean} ± {number(cell.std, places)}"


def gain(value: float | None, kind: str, places: int | None = 4) -> str:
    """`+0.0655` where `kind` is absolute, `+7.07 %` of a fraction where it is relative; a dash where there is none."""
    if value is None or math.isnan(value):
        return ABSENT
    if kind == "relative":
        return f"{100 * value:+.2f} %"
    return f"{value:+.4g}" if places is None else f"{value:+.{places}f}"


def published(printed: Published | None, places: int | None = 4) -> str:
    """The paper's mean ± std without its stars; never fewer digits than are known, a dash where it prints nothing."""
    if printed is None:
        return ABSENT
    value = _at_least(printed.value, places)
    return value if printed.std is None else f"{value} ± {_at_least(printed.std, places)}"


def _at_least(value: float, places: int | None) -> str:
    shortest = f"{value:.10f}".rstrip("0")
    if places is None:
        return shortest.removesuffix(".")
    return shortest if len(shortest.partition(".")[2]) > places else f"{value:.{places}f}"


def stars(cell: Cell | None, column: Column) -> str:
    """Those of the test over seeds; none with fewer than three seeds, whatever the test says."""
    if cell is None or cell.seeds_test is None or finished(cell) < FEWEST_SEEDS:
        return ""
    return cell.seeds_test.stars(column.better)


def below(cell: Cell | None, column: Column) -> bool:
    """Whether the test on rows finds the row below the one that it is compared with, after Holm's correction."""
    test = None if cell is None else cell.rows_test
    if test is None or test.difference is None:
        return False
    return test.difference * column.better < 0 and test.sure


def finished(cell: Cell) -> int:
    """Seeds with a value."""
    return sum(value is not None for value in cell.values.values())


def p_value(p: float | None) -> str:
    """Four decimals; `< 0.0001` below; a dash where there is none."""
    if p is None or math.isnan(p):
        return ABSENT
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def interval(bounds: tuple[float, float] | None, places: int | None = 4) -> str:
    """`[-0.0031, 0.0042]`."""
    return ABSENT if bounds is None else f"[{number(bounds[0], places)}, {number(bounds[1], places)}]"


def count(value: float) -> str:
    """1,234,567."""
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """Three significant digits of a percentage: 3.89 %, 0.0200 %."""
    if not whole:
        return ABSENT
    percent = 100 * part / whole
    places = 2 if percent == 0 else max(0, 2 - math.floor(math.log10(percent)))
    return f"{percent:.{places}f} %"


def amount(value: float | None) -> str:
    """A measured quantity: three significant digits, thousands parted; a dash where it is not known."""
    if value is None or math.isnan(value):
        return ABSENT
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = list(words)
    return f"{', '.join(most)} and {last}" if most else last


def shortened(text: str, most: int) -> str:
    """The first line, cut to `most` characters."""
    first = " ".join((text.strip().splitlines() or [""])[0].split())
    return first if len(first) <= most else first[: most - 1].rstrip() + "…"
