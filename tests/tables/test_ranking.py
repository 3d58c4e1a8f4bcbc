"""Which rows, seeds and columns are ranked, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from large_table import large_table
from tables_by_hand import CLICK, LOSS, PURCHASE, cell, small_table

from seqmtl.tables.content import Column, Part, Row
from seqmtl.tables.ranking import rankings

EMPTY = replace(small_table().parts[1], table_rows=())


def part(columns: tuple[Column, ...], **rows: list[dict[int, float | None]]) -> Part:
    made = (
        Row(label, cells={column.key: cell(values) for column, values in zip(columns, of_row, strict=False)})
        for label, of_row in rows.items()
    )
    return replace(EMPTY, columns=columns, table_rows=tuple(made))


def by_seed(*values: float | None) -> dict[int, float | None]:
    return dict(enumerate(values, 1))


def test_ranks_over_seeds_and_columns() -> None:
    made = rankings(
        part(
            (CLICK, PURCHASE),
            a=[by_seed(0.9, 0.9), by_seed(0.5, 0.9)],
            b=[by_seed(0.8, 0.8), by_seed(0.5, 0.8)],
            c=[by_seed(0.7, 0.7), by_seed(0.7, 0.7)],
        )
    )
    assert len(made) == 1
    np.testing.assert_allclose(made[0].ranks, [(1 + 1 + 2.5 + 1) / 4, (2 + 2 + 2.5 + 2) / 4, (3 + 3 + 1 + 3) / 4])
    assert made[0].seeds == (1, 2)
    assert (made[0].metric, made[0].labels, made[0].columns) == ("AUC", ("a", "b", "c"), ("click AUC", "purchase AUC"))
    np.testing.assert_allclose(made[0].difference, 2.343 * (3 * 4 / (6 * 4)) ** 0.5, atol=1e-3)  # Demšar's table 5a


def test_of_a_loss_the_least_is_first_and_metrics_are_ranked_apart() -> None:
    rows: dict[str, Any] = {
        name: [by_seed(auc, auc), by_seed(loss, loss)] for name, auc, loss in (("a", 0.9, 0.3), ("b", 0.8, 0.1), ("c", 0.7, 0.2))
    }
    auc, loss = rankings(part((CLICK, LOSS), **rows))
    assert auc.ranks.tolist() == [1, 2, 3]
    assert loss.ranks.tolist() == [3, 1, 2]
    assert loss.metric == "LogLoss"


def test_seeds_and_rows_that_not_all_have() -> None:
    made = rankings(
        part(
            (CLICK, PURCHASE),
            a=[by_seed(0.9, 0.9, 0.9), by_seed(0.9, 0.9, 0.9)],
            b=[by_seed(0.8, 0.8, 0.8), by_seed(0.8, 0.8, None)],
            c=[by_seed(0.7, 0.7, 0.7), by_seed(0.7, 0.7, 0.7)],
            without=[by_seed(0.7, 0.7, 0.7)],
            one_seed=[by_seed(0.1), by_seed(0.1)],
        )
    )
    assert made[0].seeds == (1, 2)
    assert made[0].labels == ("a", "b", "c")
    assert made[0].left_out == ("without", "one_seed")
    assert "Without without and one_seed" in made[0].words[-1]


def test_a_row_whose_seeds_meet_nobodys_is_left_out() -> None:
    rows: dict[str, Any] = {name: [by_seed(v, v, v, v)] for name, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))}
    made = rankings(part((CLICK,), **rows, late=[{5: 0.5, 6: 0.6}]))
    assert made[0].seeds == (1, 2, 3, 4)
    assert made[0].left_out == ("late",)


def test_no_ranks_of_too_few() -> None:
    two_rows: dict[str, Any] = {name: [by_seed(0.9, 0.8)] for name in "ab"}
    one_seed: dict[str, Any] = {name: [by_seed(0.9)] for name in "abc"}
    neither: dict[str, Any] = {name: [by_seed(0.9, 0.8)] for name in "abc"}
    assert rankings(part((CLICK,), **two_rows)) == []
    assert rankings(part((CLICK,), **one_seed)) == []
    assert rankings(part((replace(CLICK, better=0),), **neither)) == []


def test_few_blocks_are_called_few() -> None:
    rows: dict[str, Any] = {name: [by_seed(v, v)] for name, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))}
    assert "no difference could be found" in " ".join(rankings(part((CLICK,), **rows))[0].words)
    large = rankings(large_table(tasks=("click",)).parts[0])[0]
    assert "bars that overlap do not show that rows are equal" in " ".join(large.words)
