"""Who is compared with whom, and out of how many comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from seqmtl.tables.content import Comparison
from seqmtl.tables.pairs import Asked, asked, compared
from seqmtl.tables.spec import RowSpec


def rows(*labels: str, ours: str = "", **against: str) -> list[RowSpec]:
    return [RowSpec(label, (), label == ours, against.get(label, "")) for label in labels]


def test_all_with_the_best_and_the_proposed_one_with_the_best_of_the_others() -> None:
    found = asked(rows("A", "B", "C", ours="C"), ["C", "A", "B"])
    assert found == Asked({"C": "A"}, 1, {"C": "A", "A": "C", "B": "C"}, 3)
    found = asked(rows("A", "B", "C", ours="C"), ["A", "B", "C"])
    assert found == Asked({"C": "A"}, 1, {"A": "B", "B": "A", "C": "A"}, 3)


def test_without_a_proposed_one_both_tests_are_with_the_best() -> None:
    pairs = {"B": "A", "A": "B", "C": "B", "D": "B"}
    assert asked(rows("A", "B", "C", "D"), ["B", "A", "C", "D"]) == Asked(pairs, 6, pairs, 6)


def test_named_pairs_are_all_and_a_pair_counts_once() -> None:
    ablations = rows("whole", "-a", "-b", ours="whole", **{"-a": "whole", "-b": "whole"})
    found = asked(ablations, ["-b", "whole", "-a"])
    assert found.on == {"whole": "-b", "-a": "whole", "-b": "whole"}
    assert (found.over, found.over_family, found.on_family) == (found.on, 2, 2)
    trunks = rows("X", "X+D", "Y", "Y+D", **{"X+D": "X", "Y+D": "Y"})
    assert asked(trunks, ["Y+D", "X+D", "X", "Y"]).on == {"X+D": "X", "Y+D": "Y"}
    assert asked(trunks, ["Y+D", "X+D", "X"]).on == {"X+D": "X"}, "a row that is not there is no partner"


@pytest.mark.parametrize("order", [[], ["A"]])
def test_nobody_to_compare_with(order: list[str]) -> None:
    assert asked(rows("A", "B", ours="A"), order) == Asked({}, 0, {}, 0)


def test_the_same_two_from_the_other_side_are_the_same_numbers() -> None:
    asked_for: list[tuple[str, str]] = []

    def compare(label: str, other: str) -> Comparison:
        asked_for.append((label, other))
        return Comparison(other, 0.1, (0.0, 0.3), 0.02, None, "a test")

    found = compared({"A": "B", "B": "A", "C": "A"}, 3, compare)
    assert asked_for == [("A", "B"), ("C", "A")]
    assert found["B"].against == "A"
    assert found["B"].difference == -0.1
    assert found["B"].interval == (-0.3, 0.0)
    assert found["B"].adjusted == found["A"].adjusted == pytest.approx(0.06)


@pytest.mark.parametrize("systems", [2, 7, 21])
def test_of_equal_models_few_tables_mark_any(systems: int) -> None:
    """The best is chosen on the same rows: without the correction for that, a quarter of the tables of 21 rows would mark one."""
    rng = np.random.default_rng(0)
    marked = 0
    for _ in range(400):
        scores = dict(zip((f"{i}" for i in range(systems)), rng.normal(size=systems), strict=True))
        order = sorted(scores, key=lambda label: -scores[label])

        def compare(label: str, other: str, scores: dict[str, float] = scores) -> Comparison:
            difference = scores[label] - scores[other]
            return Comparison(other, difference, None, float(2 * norm.sf(abs(difference) / np.sqrt(2))), None, "z")

        pairs = asked(rows(*scores), order)
        found = compared(pairs.on, pairs.on_family, compare)
        marked += any((one.p if one.adjusted is None else one.adjusted) < 0.05 for one in found.values())  # type: ignore[operator]
    assert marked / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
