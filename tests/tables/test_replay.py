"""The replay of an A/B test: by hand, against literal resamples, with planted advantages, and as often right as it says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from seqmtl.errors import SeqmtlError
from seqmtl.tables.predictions import Truth
from seqmtl.tables.replay import ORACLE, _rates, published, replay, replay_part
from seqmtl.tables.spec import _column

Floats = NDArray[np.float64]


def population(rng: np.random.Generator, rows: int, users: int) -> tuple[Floats, NDArray[np.int64]]:
    """True log-odds of a rare conversion, of which a part is the user's, and the users."""
    user = rng.integers(0, users, rows)
    return rng.normal(size=rows) + 0.7 * rng.normal(size=users)[user] - 3, user


def test_by_hand() -> None:
    happens = np.array([1, 0, 1, 0, 0, 0, 1, 0])
    a = np.array([8.0, 7, 6, 5, 4, 3, 2, 1])  # takes rows 0 and 1 of 8: one conversion
    b = np.array([8.0, 1, 7, 5, 4, 3, 6, 2])  # rows 0 and 2: two
    found = replay([a], [b], happens, share=0.25, repeats=10)
    assert (found.a_rate, found.b_rate, found.gain) == (0.5, 1.0, 1.0)
    both = replay([a, b], [b], happens, share=0.25, repeats=10)
    assert (both.a_rate, both.gain) == (0.75, pytest.approx(1 / 3)), "the mean rate of the seeds"
    ties = replay([np.zeros(8)], [b], happens, share=0.25, repeats=10)
    assert ties.a_rate == 3 / 8, "of rows that are alike each is taken in part"
    some = replay([np.array([1.0, 1, 1, 0, 0, 0, 0, 0])], [b], happens, share=0.5, repeats=10)
    assert some.a_rate == pytest.approx((2 + 1 / 5) / 4)
    part = replay([a], [b], happens, share=0.3, repeats=10)
    assert part.a_rate == pytest.approx((1 + 0.4) / 2.4), "2.4 rows"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_resample_is_what_its_rows_are(share: float) -> None:
    rng = np.random.default_rng(0)
    scores, value, user = rng.integers(0, 40, 500).astype(float), rng.random(500), rng.integers(0, 30, 500)
    rate = _rates(scores, value, user, np.bincount(user, minlength=30).astype(float), share)
    for times in ([1] * 30, [0] * 29 + [3], [40] + [1] * 29, *rng.multinomial(30, np.full(30, 1 / 30), 20)):
        rows = np.repeat(np.arange(500), np.asarray(times)[user])
        full, taken, total = share * len(rows), 0.0, 0.0
        for score in sorted(set(scores[rows]), reverse=True):
            group = rows[scores[rows] == score]
            part = min(1.0, (full - taken) / len(group))
            taken, total = taken + part * len(group), total + part * value[group].sum()
            if part < 1:
                break
        assert rate(np.array(times, float)) == pytest.approx(total / full, rel=1e-12)


def test_identical_models_gain_nothing() -> None:
    rng = np.random.default_rng(1)
    z, user = population(rng, 3000, 200)
    a = [z + rng.normal(size=3000) for _ in range(3)]
    found = replay(a, a[::-1], expit(z), user, repeats=100)
    assert (found.gain, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)
    b = [z + rng.normal(size=3000) for _ in range(3)]
    alike = replay(a, b, expit(z), user, repeats=300)
    assert alike.interval is not None
    assert alike.interval[0] < 0 < alike.interval[1]
    assert alike.p is not None
    assert alike.p > 0.05


def test_a_planted_advantage_is_found_with_its_sign_and_size() -> None:
    rng = np.random.default_rng(2)
    z, user = population(rng, 20_000, 1000)
    wanted: Any = np.random.default_rng(3)
    far, _ = population(wanted, 500_000, 50_000)
    rates = []
    for noise in (2.0, 0.5):
        scores = far + noise * wanted.normal(size=len(far))
        rates.append(expit(far[np.argsort(-scores)[: len(far) // 10]]).mean())
    true = rates[1] / rates[0] - 1
    a, b = ([z + noise * rng.normal(size=20_000)] for noise in (2.0, 0.5))
    found = replay(a, b, expit(z), user, repeats=300)
    assert true > 0.3
    assert found.gain == pytest.approx(true, rel=0.15)
    assert found.interval is not None
    assert 0 < found.interval[0] < true < found.interval[1]
    assert found.p == pytest.approx(2 / 301)
    turned = replay(b, a, expit(z), user, repeats=300)
    assert turned.gain == pytest.approx(1 / (1 + found.gain) - 1)
    assert turned.interval is not None
    assert turned.interval[1] < 0
    seen = replay(a, b, (rng.random(20_000) < expit(z)).astype(np.int8), user, repeats=300)
    assert seen.interval is not None
    assert seen.interval[0] < true < seen.interval[1]
    assert np.diff(seen.interval)[0] > np.diff(found.interval)[0], "what happened is known less exactly than what is expected"


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    users = rng.integers(0, 100, 10_000)
    z = rng.normal(size=100)[users] * 1.5 - 3
    a, b = z + rng.normal(size=100)[users], z + rng.normal(size=100)[users]
    by_user, by_row = (replay([a], [b], expit(z), u, repeats=200).interval for u in (users, None))
    assert by_user is not None
    assert by_row is not None
    assert np.diff(by_user)[0] > 3 * np.diff(by_row)[0]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_nothing_ranks_better_than_the_oracle(share: float) -> None:
    rng = np.random.default_rng(5)
    z, user = population(rng, 5000, 300)
    for noise in (0.01, 0.3, 3.0):
        found = replay([z + noise * rng.normal(size=5000)], [expit(z)], expit(z), user, share, repeats=30)
        assert found.gain is not None
        assert found.interval is not None
        assert found.gain >= 0
        assert found.interval[0] >= 0, "in no resample either"


def test_gains_that_have_no_size() -> None:
    a, b = np.arange(10.0), -np.arange(10.0)
    never = replay([a], [b], np.array([1] + [0] * 9), share=0.2, repeats=20)
    assert (never.gain, never.interval, never.p, never.a_rate, never.b_rate) == (None, None, None, 0.0, 0.5)
    nobody = replay([a], [b], np.zeros(10), share=0.2, repeats=20)
    assert (nobody.gain, nobody.interval, nobody.p) == (0.0, (0.0, 0.0), 1.0)
    rare = replay([a], [b], np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]), share=0.2, repeats=200)
    assert rare.gain == 0.0
    assert rare.interval is None, "some resamples have no conversion"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 0.05, math.nan])
def test_a_share_that_takes_nothing(share: float) -> None:
    with pytest.raises(SeqmtlError, match="a replay takes a share of the rows between one row and all"):
        replay([np.arange(10.0)], [np.arange(10.0)], np.zeros(10), share=share)


def test_what_cannot_be_replayed() -> None:
    with pytest.raises(SeqmtlError, match="the bootstrap of a replay needs repeats, not 0"):
        replay([np.arange(10.0)], [np.arange(10.0)], np.zeros(10), repeats=0)
    with pytest.raises(SeqmtlError, match="no number: the model diverged"):
        replay([np.arange(10.0)], [np.full(10, np.nan)], np.zeros(10))


@pytest.mark.slow
@pytest.mark.parametrize("seen", [False, True])
def test_intervals_cover_the_true_gain_as_often_as_they_say(seen: bool) -> None:
    rng = np.random.default_rng(6)
    far, _ = population(rng, 4_000_000, 400_000)
    rates = [expit(far[np.argsort(-(far + s * rng.normal(size=len(far))))[: len(far) // 10]]).mean() for s in (1.5, 1.0)]
    true, covered, trials = rates[1] / rates[0] - 1, 0, 400
    for _ in range(trials):
        users = rng.integers(0, 400, 4000)
        z = rng.normal(size=4000) + 0.7 * rng.normal(size=400)[users] - 3
        happens = (rng.random(4000) < expit(z)).astype(np.int8) if seen else expit(z)
        found = replay(
            [z + 1.5 * rng.normal(size=4000)],
            [z + rng.normal(size=4000)],
            happens,
            users,
            repeats=400,
            seed=int(rng.integers(2**31)),
        )
        assert found.interval is not None
        covered += found.interval[0] <= true <= found.interval[1]
    assert 0.92 <= covered / trials <= 0.98, covered / trials


@pytest.fixture
def three_models() -> tuple[dict[str, list[NDArray[np.float32]]], Truth, Floats]:
    rng = np.random.default_rng(7)
    z, user = population(rng, 2000, 150)
    p = np.stack([expit(z), expit(z) * expit(z + 1)], 1)
    y = (rng.random((2000, 2)) < p).astype(np.int8)
    logits = {
        name: [np.float32(np.log(p) + noise * rng.normal(size=p.shape)) for _ in range(2)]
        for name, noise in (("old", 2.0), ("new", 0.3), ("unfinished", 1.0))
    }
    logits["unfinished"] = []
    return logits, Truth(("click", "order"), np.arange(2000), y, user), p


OPTIONS: dict[str, Any] = {
    "share": 0.2,
    "repeats": 50,
    "pairs": {"new vs old": ["new", "old"], "best vs new": [ORACLE, "new"], "unfinished vs old": ["unfinished", "old"]},
}
COLUMNS = tuple(map(_column, ("order.gain", "click.gain", "click.gain_seen")))


def test_a_part_has_every_pair_in_every_column(three_models: Any) -> None:
    logits, truth, p = three_models
    found = replay_part(logits, truth, p, OPTIONS, COLUMNS)
    assert list(found) == ["new vs old", "best vs new"], "a row without runs has no pairs"
    assert [list(columns) for columns in found.values()] == [["order.gain", "click.gain", "click.gain_seen"]] * 2
    by_hand = replay([x[:, 1] for x in logits["old"]], [x[:, 1] for x in logits["new"]], p[:, 1], truth.users, 0.2, 50)
    assert found["new vs old"]["order.gain"] == by_hand
    seen = replay([x[:, 0] for x in logits["old"]], [x[:, 0] for x in logits["new"]], truth.y[:, 0], truth.users, 0.2, 50)
    assert found["new vs old"]["click.gain_seen"] == seen
    for column in ("order.gain", "click.gain"):
        for pair in ("new vs old", "best vs new"):
            gain = found[pair][column].gain
            assert gain is not None
            assert gain > 0, (pair, column)
    real = replay_part(logits, truth, None, OPTIONS | {"pairs": {"new vs old": ["new", "old"]}}, COLUMNS)
    assert real["new vs old"]["click.gain"] == seen, "labels, where there are no true probabilities"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairs": {}}, r"a replay needs options\.pairs"),
        ({"pairs": {"x": ["new"]}}, "must be two rows"),
        ({"pairs": {"x": ["new", "new"]}}, "must be two rows"),
        ({"pairs": {"x": ["new", "MMoE"]}}, "names MMoE; the rows are old, new, unfinished, and oracle"),
        ({"part": 0.1}, "a replay has no option part; it has pairs, published, share, repeats, seed"),
        ({"share": 2}, "between one row and all"),
    ],
)
def test_wrong_options_of_a_part(three_models: Any, options: dict[str, Any], says: str) -> None:
    logits, truth, p = three_models
    with pytest.raises(SeqmtlError, match=says):
        replay_part(logits, truth, p, OPTIONS | options, COLUMNS)


def test_columns_and_data_that_do_not_fit(three_models: Any) -> None:
    logits, truth, p = three_models
    for column in ("order.auc", "purchase.gain"):
        with pytest.raises(SeqmtlError, match=rf"{column} is no column of a replay: TASK\.gain or TASK\.gain_seen of click, order"):
            replay_part(logits, truth, p, OPTIONS, [_column(column)])
    with pytest.raises(SeqmtlError, match="best vs new: these data have no true probabilities"):
        replay_part(logits, truth, None, OPTIONS, COLUMNS)


@pytest.mark.parametrize("values", [["+1%"], ["+1%", "-", "1.5"], ["+1%", "-", "much"], ["nan%", "-", "-"]])
def test_printed_gains_that_are_none(values: list[str]) -> None:
    with pytest.raises(SeqmtlError, match=r"options\.published\.new vs old"):
        published(OPTIONS | {"published": {"new vs old": values}}, COLUMNS)
