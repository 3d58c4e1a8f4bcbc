"""Who is compared with whom in a column, and out of how many comparisons.

Where the paper names the pairs (ablations against the whole, a trunk with DTRN against the same one without), these are all; else
each row is compared with the best one, and the proposed model, by the paper's own test, with the best of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from seqmtl.tables.content import Comparison
from seqmtl.tables.evidence import corrected
from seqmtl.tables.spec import RowSpec

Pairs = dict[str, str]  # label → label of the row that it is compared with


@dataclass(frozen=True)
class Asked:
    """Of one column.

    Args:
        over, over_family: pairs for the test over seeds, and how many comparisons they are out of.
        on, on_family: the same for the test on rows.
    """

    over: Pairs
    over_family: int
    on: Pairs
    on_family: int


def asked(rows: Sequence[RowSpec], order: Sequence[str]) -> Asked:
    """The pairs of a column.

    Args:
        rows: of the part.
        order: labels of the rows that can be compared, the best first.
    """
    ours = [row.label for row in rows if row.ours and row.label in order]
    proposed = {label: other for label in ours if (other := next((o for o in order if o not in ours), None))}
    if any(row.against for row in rows):
        named = {row.label: row.against for row in rows if row.label in order and row.against in order}
        pairs = {**proposed, **named}
        count = len({frozenset(pair) for pair in pairs.items()})
        return Asked(pairs, count, pairs, count)
    with_best = {label: order[label == order[0]] for label in order} if len(order) > 1 else {}
    every = len(order) * (len(order) - 1) // 2
    if any(row.ours for row in rows):
        return Asked(proposed, len(proposed), with_best, every)
    return Asked(with_best, every, with_best, every)


def compared(pairs: Pairs, family: int, compare: Callable[[str, str], Comparison]) -> Mapping[str, Comparison]:
    """The comparison of each row with its other; that of the same two rows from the other side is no second one."""
    once: dict[str, Comparison] = {}
    for label, other in pairs.items():
        if not (other in once and pairs[other] == label):
            once[label] = compare(label, other)
    found = corrected(once, family)
    return found | {label: found[other].mirrored(other) for label, other in pairs.items() if label not in found}
