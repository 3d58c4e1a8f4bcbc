"""An online A/B test, replayed on simulated data: two models rank the test impressions, each takes its top share, conversions are
counted.

    rate = Σ_taken P(conversion) / rows taken        gain of B over A = rate_B / rate_A - 1

What a table repeats: AITM's Table 3, APEM's Figure 9 and DTRN's Table 9, whose traffic cannot be had. The simulator knows the true
probability of every impression, so the expected conversions are counted without the luck of single ones; labels serve as well.

Unusual: it is no A/B test. Both models choose among the same impressions, so the difference is paired, and what is shown changes
neither what users do next nor what is there to choose from. The interval is over users, by a bootstrap that takes the top share of
each resample anew, since the threshold is a part of what is estimated. It does not cover another training: seeds are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.errors import SeqmtlError
from seqmtl.tables.content import Column
from seqmtl.tables.predictions import Truth

ORACLE = "oracle"  # in the place of a row's label: the true probabilities as the score
METRICS = ("gain", "gain_seen")  # by the true probabilities, by the labels
EDGE = 1.5  # times the rows that are taken: what is looked at before all rows are

Scores = Sequence[NDArray[np.floating]]
Rates = Callable[[NDArray[np.float64]], float]  # weights of the users (U,) → rate among the rows taken


@dataclass(frozen=True)
class Replay:
    """B against A.

    Args:
        gain: relative, of B over A; None where A's rows convert never.
        interval: 95 %, over users; None where there is no gain, or a resample has none.
        p: two-sided, of the bootstrap: at least 2 / (repeats + 1).
        a_rate, b_rate: conversions per row taken, mean over the seeds.
    """

    gain: float | None
    interval: tuple[float, float] | None
    p: float | None
    a_rate: float
    b_rate: float


def replay(
    a: Scores,
    b: Scores,
    happens: NDArray[Any],
    users: NDArray[np.int64] | None = None,
    share: float = 0.1,
    repeats: int = 1000,
    seed: int = 0,
) -> Replay:
    """What B's choice of rows gains over A's.

    Args:
        a, b: (N,) scores of each seed; of equal scores at the edge, each row is taken in part.
        happens: (N,) true probabilities, or labels.
        users: (N,) whose row it is; None: rows by themselves.
        share: of the rows, or of the weight of a resample, that each takes.
        repeats: resamples of the users.
        seed: of the resamples.

    Raises:
        SeqmtlError: the share takes no row or all, or a score is no number.
    """
    n = len(happens)
    if not 0 < share < 1 or share * n < 1:
        raise SeqmtlError(f"a replay takes a share of the rows between one row and all, not {share:g} of {n:,}")
    if repeats < 1:
        raise SeqmtlError(f"the bootstrap of a replay needs repeats, not {repeats}")
    known, user = np.unique(np.arange(n) if users is None else users, return_inverse=True)
    rows_of = np.bincount(user, minlength=len(known)).astype(np.float64)
    value = np.asarray(happens, np.float64)
    rates = [[_rates(scores, value, user, rows_of, share) for scores in side] for side in (a, b)]

    def both(weights: NDArray[np.float64]) -> tuple[float, float]:
        of_a, of_b = (math.fsum(rate(weights) for rate in side) / len(side) for side in rates)
        return of_a, of_b

    a_rate, b_rate = both(np.ones(len(known)))
    gain = _gain(a_rate, b_rate)
    if not math.isfinite(gain):
        return Replay(None, None, None, a_rate, b_rate)
    rng = np.random.default_rng(seed)
    draws = np.empty(repeats)
    for r in range(repeats):
        times = np.bincount(rng.integers(len(known), size=len(known)), minlength=len(known))
        draws[r] = _gain(*both(times.astype(np.float64)))
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    # Of a resample without conversions the gain is infinite: no interpolation with a neighbour.
    ends = float(np.quantile(draws, 0.025, method="lower")), float(np.quantile(draws, 0.975, method="higher"))
    interval = ends if all(map(math.isfinite, ends)) else None
    return Replay(gain, interval, min(1.0, 2 * (beyond + 1) / (repeats + 1)), a_rate, b_rate)


def _gain(a_rate: float, b_rate: float) -> float:
    """Infinite where A's rows convert never; 0 where B's do not either."""
    if abs(b_rate - a_rate) <= 1e-14 * a_rate:  # sums in another order
        return 0.0
    return b_rate / a_rate - 1 if a_rate else math.inf


def _rates(
    scores: NDArray[np.floating], value: NDArray[np.float64], user: NDArray[np.integer], rows_of: NDArray[np.float64], share: float
) -> Rates:
    """The rate among the top share of one model's rows, as a function of how often each user is there.

    Sorted once; a resample adds weights up along that order until its share is full, which takes the first rows only.
    """
    if np.isnan(scores).any():
        raise SeqmtlError("a score of the replay is no number: the model diverged")
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(scores)[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last row of each group of equal scores
    user, value = user[order], value[order]
    few = int(np.searchsorted(ends, min(len(order) - 1, int(EDGE * share * len(order)) + 1))) + 1

    def taken(weights: NDArray[np.float64], groups: int, full: float) -> float | None:
        rows = int(ends[groups - 1]) + 1
        w = weights[user[:rows]]
        count = np.cumsum(w)[ends[:groups]]
        if count[-1] < full:
            return None
        sums = np.cumsum(w * value[:rows])[ends[:groups]]
        g = int(np.searchsorted(count, full))
        before, sum_before = (count[g - 1], sums[g - 1]) if g else (0.0, 0.0)
        part = (full - before) / (count[g] - before)
        return float(sum_before + part * (sums[g] - sum_before)) / full

    def rate(weights: NDArray[np.float64]) -> float:
        full = share * float(weights @ rows_of)
        found = taken(weights, few, full)
        if found is None:
            found = taken(weights, len(ends), full)
        assert found is not None  # the share is below 1
        return found

    return rate


def pairs(options: Mapping[str, Any], labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{"MLP vs LightGBM": (MLP, LightGBM)} of a part's options: the first is what gains over the second.

    Raises:
        SeqmtlError: there are none, one is no pair, or names a row that the part does not have.
    """
    given = options.get("pairs")
    if not isinstance(given, Mapping) or not given:
        raise SeqmtlError("a replay needs options.pairs: {NEW vs OLD: [NEW, OLD]}")
    found = {}
    for name, pair in given.items():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
            raise SeqmtlError(f"options.pairs.{name} must be two rows, [NEW, OLD], not {pair!r}")
        unknown = [row for row in pair if row not in (*labels, ORACLE)]
        if unknown:
            raise SeqmtlError(f"options.pairs.{name} names {', '.join(unknown)}; the rows are {', '.join(labels)}, and {ORACLE}")
        found[str(name)] = (str(pair[0]), str(pair[1]))
    return found


def published(options: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, dict[str, float]]:
    """The printed gains as fractions, by pair and column key; "-" is none.

    Raises:
        SeqmtlError: of a pair that is not replayed, another number of values than of columns, or no "+16.95%".
    """
    found: dict[str, dict[str, float]] = {}
    for name, values in (options.get("published") or {}).items():
        if name not in (options.get("pairs") or {}) or len(values) != len(columns):
            raise SeqmtlError(f"options.published.{name} must be of a pair, a value for each of the {len(columns)} columns")
        found[name] = {}
        for column, value in zip(columns, values, strict=True):
            text = str(value).strip()
            if text in ("-", "–"):
                continue
            try:
                percent = float(text.removesuffix("%"))
            except ValueError:
                percent = math.nan
            if not text.endswith("%") or not math.isfinite(percent):
                raise SeqmtlError(f"options.published.{name} has {text!r}; a gain is printed as +16.95%")
            found[name][column.key] = percent / 100
    return found


def replay_part(
    logits: Mapping[str, Scores],
    truth: Truth,
    oracle: NDArray[np.float64] | None,
    options: Mapping[str, Any],
    columns: Sequence[Column],
) -> dict[str, dict[str, Replay]]:
    """Every pair in every column: {pair: {column key: Replay}}.

    Args:
        logits: (N,T) of each finished seed, by the row's label; a pair of which one row has none is left out.
        truth: the test rows of these logits.
        oracle: (N,T) true probabilities; None where the data are real: then labels count in all columns.
        options: `pairs`, and if they are not the defaults `share` (0.1), `repeats` (1000), `seed` (0).
        columns: `<task>.gain` counts the true probabilities, `<task>.gain_seen` the conversions that happened.

    Raises:
        SeqmtlError: an option is wrong, a column is no replay's, or a pair needs the oracle where there is none.
    """
    unknown = sorted(set(options) - {"pairs", "published", "share", "repeats", "seed"})
    if unknown:
        raise SeqmtlError(f"a replay has no option {', '.join(unknown)}; it has pairs, published, share, repeats, seed")
    scores: dict[str, Scores] = dict(logits)
    if oracle is not None:
        scores[ORACLE] = [oracle]
    found: dict[str, dict[str, Replay]] = {}
    for name, (new, old) in pairs(options, list(logits)).items():
        if oracle is None and ORACLE in (new, old):
            raise SeqmtlError(f"{name}: these data have no true probabilities")
        if not (len(scores[new]) and len(scores[old])):
            continue
        found[name] = {}
        for column in columns:
            if column.metric not in METRICS or column.task not in truth.tasks:
                raise SeqmtlError(f"{column.key} is no column of a replay: TASK.gain or TASK.gain_seen of {', '.join(truth.tasks)}")
            t = truth.tasks.index(column.task)
            seen = oracle is None or column.metric == "gain_seen"
            happens = truth.y[:, t] if seen else oracle[:, t]  # type: ignore[index]
            of_old, of_new = ([one[:, t] for one in scores[row]] for row in (old, new))
            chosen = {key: options[key] for key in ("share", "repeats", "seed") if key in options}
            found[name][column.key] = replay(of_old, of_new, happens, truth.users, **chosen)
    return found
