"""A simulated log of short videos in a shop: watch → click, watch → entering → conversion (a tree), in which histories matter.

    logit P(step t | its parent) = a_t + <theta_t(time), [user, item, context, user * item]> + what the past says (policy.py)

The rates are those of the E-commerce data of DTRN (CIKM 2023, Table 2); nobody has published them, so the layout is ours
(raw_files.py). The past are five behaviours, all of which can be read from the log: watch, non_watch, click, non_click, entering.

Unusual: users have 6.3 impressions on average, as DTRN's have in its month, with a tail so heavy that an impression has about 17
earlier ones of its user, as its Table 2 says (watch 9.98 and non_watch 7.34 on average; here, cut to 50 each, 9.5 and 7.4). Its
22.8 earlier enterings cannot come from such a log, as 0.73 % of 17 impressions are 0.13: they must have been collected elsewhere
too, and are not imitated. Histories are empty when the log begins, so steps that depend on them become likelier with time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqmtl.simulate.options import check, chosen_rates
from seqmtl.simulate.policy import LATENT, Policy, Rows
from seqmtl.simulate.population import Places, draw, lognormal, side, zipf
from seqmtl.simulate.raw_files import CHUNK, Log, OracleFile, Report, clock, silent
from seqmtl.simulate.settle import Played, settle
from seqmtl.simulate.truth import Floats, Funnel, Ints, Weights, directions

PARENTS = {"watch": None, "click": "watch", "entering": "watch", "conversion": "entering"}
NUMBERS = (None, 0, 0, 2)
RATES = {
    "default": {"watch": 0.5814, "click": 0.06, "entering": 0.06, "conversion": 0.008},
    "paper": {"watch": 0.5814, "click": 0.015, "entering": 0.0073, "conversion": 0.000122},
}
BEHAVIOURS = ((0, True), (0, False), (1, True), (1, False), (2, True))
TASTE = np.array([
    [0.45, -0.35, 0.10, 0.00, 0.10],
    [0.10, -0.10, 0.50, -0.10, 0.20],
    [0.15, -0.10, 0.20, -0.10, 0.45],
    [0.10, -0.05, 0.15, -0.10, 0.60],
])  # fmt: skip
SHARES = {"user": 0.2, "item": 0.35, "context": 0.1, "product": 0.35}  # of the variance that is not history
USER_SIZES = {"age": 8, "gender": 2, "city": 300, "level": 7, "device": 40}
USER_TOLD, USER_OWN = {"age": 0.3, "gender": 0.1, "city": 0.3, "level": 0.2, "device": 0.1}, 0.3
ITEM_TOLD, ITEM_OWN = {"category": 0.7, "shop": 0.3}, 0.2
PLACE_TOLD = {"position": 0.7, "hour": 0.3}
ACTIVITY, CAP = 1.4, 60.0  # sigma of the logarithm of users' activity; the most active, in means
PILOT = 200_000


def simulate(
    directory: Path,
    *,
    rows: int = 300_000,
    rates: str | Mapping[str, float] = "default",
    relatedness: float = 0.5,
    oracle_auc: float = 0.78,
    history: float = 0.4,
    zipf: float = 0.8,
    rows_per_user: float = 6.3,
    rows_per_item: float = 150,
    drift: float = 0,
    seed: int = 0,
    report: Report = silent,
) -> None:
    """Writes log-*.parquet and oracle_log.parquet into `directory`.

    Args:
        rates: `default` (58.14 % watch, 6 % click, 6 % entering, 0.8 % conversion, of impressions), `paper` (58.14, 1.50, 0.730,
            0.0122 %), or a mapping.
        relatedness: correlation of a step's theta with its parent's.
        oracle_auc: AUC of the true watch probabilities; the other steps' log-odds have the same strength.
        history: share of the signal's variance that is in the histories.
        zipf: exponent of the popularity of items and values.
        rows_per_user, rows_per_item: means; they set the sizes of the vocabularies.
        drift: 1 - correlation of theta at the first and the last row.

    Raises:
        SeqmtlError: an option makes no sense.
    """
    chosen = chosen_rates(rates, RATES, PARENTS)
    options = Options(rows, relatedness, oracle_auc, history, zipf, rows_per_user, rows_per_item, drift, seed)
    check(vars(options))
    directory.mkdir(parents=True, exist_ok=True)
    world = World(options, list(chosen.values()), report)
    user_columns, item_columns = world.users.numbers(), world.items.numbers()
    with Log(directory) as log, OracleFile(directory, "log", list(PARENTS)) as oracle:
        for played in world.play():
            met, happens = played.met, played.happens
            log.add({
                "time": met["time"],
                **{name: of[met["user"]] for name, of in user_columns.items()},
                **{name: of[met["item"]] for name, of in item_columns.items()},
                "position": (1 + met["position"]).astype(np.int32),
                "hour": met["hour"].astype(np.int32),
                **{task: happens[:, t].astype(np.int8) for t, task in enumerate(PARENTS)},
            })  # fmt: skip
            oracle.add(played.probabilities)
            report("simulating", log.rows, log.rows / rows)


@dataclass(frozen=True)
class Options:
    """What a simulation is asked for."""

    rows: int
    relatedness: float
    oracle_auc: float
    history: float
    zipf: float
    rows_per_user: float
    rows_per_item: float
    drift: float
    seed: int


class World:
    """Users, items, places, and what users do."""

    def __init__(self, options: Options, rates: list[float], report: Report = silent) -> None:
        rng = np.random.default_rng([options.seed, 0])
        self.seed, self.rows = options.seed, options.rows
        n_users = max(20, round(options.rows / options.rows_per_user))
        n_items = max(20, round(options.rows / options.rows_per_item))
        sizes = {"category": max(10, min(60, n_items // 30)), "shop": max(10, n_items // 10)}
        activity = lognormal(rng, n_users, ACTIVITY, CAP)
        self.users = side(rng, activity, "user_id", USER_SIZES, USER_TOLD, own=USER_OWN, exponent=options.zipf, latent=LATENT)
        popular = zipf(n_items, options.zipf)
        self.items = side(rng, popular, "item_id", sizes, ITEM_TOLD, own=ITEM_OWN, exponent=options.zipf, latent=LATENT)
        self.places = Places(rng, {"position": zipf(10, 1), "hour": np.full(24, 1 / 24)}, PLACE_TOLD, LATENT)
        rng = np.random.default_rng([options.seed, 1])
        weights = Weights({block: directions(rng, NUMBERS, LATENT, options.relatedness) for block in SHARES}, options.drift)
        funnel = Funnel(NUMBERS, rates)
        self.policy = Policy(rng, weights, funnel, BEHAVIOURS, TASTE, options.relatedness, options.drift, options.history)
        self._fit(options)
        settle(self.policy.funnel, self.play, options.rows, report)

    def _fit(self, options: Options) -> None:
        """On some users, with all their rows."""
        rng = np.random.default_rng([options.seed, 2])
        users = rng.permutation(len(self.users.weight))
        users = users[: 1 + np.searchsorted(np.cumsum(self.users.weight[users]), min(1, PILOT / options.rows))]
        weight = self.users.weight[users]
        n = max(1, round(options.rows * weight.sum()))
        met, rows = self._meet(rng, users, weight, 0, n, n)
        shares = {block: (1 - options.history) * share for block, share in SHARES.items()}
        rows.user = np.unique(met["user"], return_inverse=True)[1]
        self.policy.fit(rows, len(users), rng.random((n, len(PARENTS))), shares, options.oracle_auc)

    def play(self) -> Iterator[Played]:
        """All rows, in time order."""
        state = self.policy.state(len(self.users.weight))
        everybody = np.arange(len(self.users.weight))
        for chunk, first in enumerate(range(0, self.rows, CHUNK)):
            rng = np.random.default_rng([self.seed, 3, chunk])
            met, rows = self._meet(rng, everybody, self.users.weight, first, min(CHUNK, self.rows - first), self.rows)
            signal, happens = self.policy.play(rows, rng.random((len(rows.user), len(PARENTS))), state)
            yield Played(met, happens, self.policy.funnel.probabilities(signal), rng)

    def _meet(
        self, rng: np.random.Generator, users: Ints, weight: Floats, first: int, n: int, total: int
    ) -> tuple[dict[str, Ints], Rows]:
        """Rows `first` to `first + n` of a log with `total`, of these users."""
        second, hour, time = clock(first, n, total)
        user, item = users[draw(weight, rng.random(n))], self.items.draw(rng, n)
        place = {"position": draw(self.places.weight["position"], rng.random(n)), "hour": hour}
        u, v = self.users.vectors[user], self.items.vectors[item]
        blocks = {"user": u, "item": v, "context": self.places.vectors(place), "product": u * v}
        return {"user": user, "item": item, "time": second, **place}, Rows(user, v, blocks, time)
