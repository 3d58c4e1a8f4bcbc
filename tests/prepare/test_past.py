"""Causal histories against a look at every earlier row, and the rules that split a log."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqmtl.data.draws import uniform
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.log_split import Split
from seqmtl.prepare.past import Negatives, first_rows, past

LOGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.booleans()), min_size=1, max_size=60)


def gathered(log: list[tuple[int, int, bool]], window: int | None) -> list[list[int]]:
    user, item, happened = (np.array(column) for column in zip(*log, strict=True))
    behaviour = past(first_rows(user), item, happened, window)
    assert behaviour.end.dtype == np.int64
    assert behaviour.length.dtype == np.int32
    return [behaviour.flat[e - n : e].tolist() for e, n in zip(behaviour.end, behaviour.length, strict=True)]


def brute_force(log: list[tuple[int, int, bool]], window: int | None) -> list[list[int]]:
    found = []
    for j, (user, _, _) in enumerate(log):
        mine = [i for i in range(j) if log[i][0] == user]
        found.append([log[i][1] for i in (mine if window is None else mine[-window:]) if log[i][2]])
    return found


@given(LOGS, st.sampled_from([None, 1, 2, 5, 100]))
@settings(max_examples=60, deadline=None)
def test_a_history_is_what_all_earlier_rows_of_the_user_say(log: list[tuple[int, int, bool]], window: int | None) -> None:
    log.sort(key=lambda row: row[0])
    assert gathered(log, window) == brute_force(log, window)


@given(LOGS, st.data())
@settings(max_examples=40, deadline=None)
def test_no_later_row_changes_an_earlier_history(log: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    log.sort(key=lambda row: row[0])
    at = data.draw(st.integers(0, len(log) - 1))
    user, item, happened = log[at]
    changed = [*log[:at], (user, item + 1, not happened), *log[at + 1 :]]
    assert gathered(changed, None)[: at + 1] == gathered(log, None)[: at + 1]
    assert [h for (u, _, _), h in zip(log, gathered(changed, None), strict=True) if u != user] == [
        h for (u, _, _), h in zip(log, gathered(log, None), strict=True) if u != user
    ]


def test_which_skips_are_stored() -> None:
    row = np.arange(100_000)
    assert np.all(Negatives.of("all").kept(row, 4))
    some = Negatives.of({"keep_prob": 0.2}).kept(row, 4)
    assert some.mean() == pytest.approx(0.2, abs=5 * (0.16 / 1e5) ** 0.5)
    assert np.array_equal(some[777:], Negatives.of({"keep_prob": 0.2}).kept(row[777:], 4))
    assert not np.array_equal(some, Negatives.of({"keep_prob": 0.2}).kept(row, 5))
    assert Negatives.of({"keep_prob": 1}).kept(row, 0).all()
    assert Negatives.of({"window": 7}).window == 7


@pytest.mark.parametrize(
    "rule",
    ["some", None, {}, {"keep_prob": 0}, {"keep_prob": 1.5}, {"window": 0}, {"window": 2.5}, {"window": 5, "keep_prob": 0.5}],
)
def test_other_rules_are_refused(rule: object) -> None:
    with pytest.raises(SeqmtlError, match=r"dataset\.prepare\.negative must be all, \{keep_prob: p\}"):
        Negatives.of(rule)  # type: ignore[arg-type]


def test_draws_are_uniform_and_depend_on_their_number_alone() -> None:
    draws = uniform(np.arange(-50_000, 50_000), 3, 1)
    assert 0 <= draws.min() < draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.013
    assert abs(np.corrcoef(draws, uniform(np.arange(-50_000, 50_000), 3, 2))[0, 1]) < 0.013
    assert np.array_equal(draws[::-7], uniform(np.arange(-50_000, 50_000)[::-7], 3, 1))


def splits(rule: Split, user: list[int]) -> list[int]:
    users = np.array(user)
    first = first_rows(users)
    place, row = np.arange(len(user)) - first, np.arange(len(user))
    return rule.places(row, len(user), users, place, np.bincount(first, minlength=len(user))[first]).tolist()


@pytest.mark.parametrize(
    ("rows", "valid", "test"),
    [(1, 0, 0), (4, 0, 0), (5, 1, 1), (10, 1, 1), (14, 1, 1), (15, 2, 2), (24, 2, 2), (25, 3, 3), (100, 10, 10)],
)
def test_the_tail_of_a_user_is_rounded_to_the_nearest_halves_up(rows: int, valid: int, test: int) -> None:
    found = splits(Split("user_tail", 0.1, 0.1, 0), [3] * rows)
    assert found == [0] * (rows - valid - test) + [1] * valid + [2] * test


def test_every_user_has_its_own_tail() -> None:
    user = [1] * 20 + [2] * 3 + [5] * 10
    assert splits(Split("user_tail", 0.2, 0.1, 0), user) == [0] * 14 + [1] * 4 + [2] * 2 + [0, 0, 1] + [0] * 7 + [1] * 2 + [2]
    assert splits(Split("time", 0.2, 0.1, 0), user) == [0] * 23 + [1] * 7 + [2] * 3


def test_draws_of_rows_and_of_users() -> None:
    user = np.repeat(np.arange(4000), 5)
    rows = Counter(splits(Split("random", 0.1, 0.2, 0), user.tolist()))
    for split, share in ((0, 0.7), (1, 0.1), (2, 0.2)):
        assert rows[split] / len(user) == pytest.approx(share, abs=4 * (share * (1 - share) / len(user)) ** 0.5)
    found = np.array(splits(Split("user_holdout", 0.1, 0.2, 0), user.tolist())).reshape(-1, 5)
    assert (found == found[:, :1]).all()
    assert np.bincount(found[:, 0]) / 4000 == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert splits(Split("random", 0.1, 0.2, 1), user.tolist()) != splits(Split("random", 0.1, 0.2, 0), user.tolist())


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.3)])
def test_shares_that_leave_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(SeqmtlError, match="must lie above 0 and leave some rows for training"):
        Split("time", *shares, 0)
