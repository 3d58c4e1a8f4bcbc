"""A simulated QK-video.csv of Tenrec (https://github.com/yuangh-x/2022-NIPS-Tenrec) with known probabilities; histories matter.

    logit P(click) = a + <theta, [user, item, user * item]> + what past clicks, follows, likes, shares and skips say (policy.py)

Follow, like and share have theta of their own, with correlation `relatedness` to the click's. They are drawn given the click: most
happen with one, but STRAY of them without, since Tenrec promises no order of its labels.

Unusual: Tenrec has no timestamps; the order of the file is that of time within a user, and no more is known of it. Rows of a user
stand together here, of which no reader should make use. A user's first row is time 0 and the last one time 1, for the drift.
Quirks of the file are kept: `\\N` and empty values, and users from OUTSIDE on, who are not of the "1M" set. Every user starts with
empty histories, so the rarer tasks become likelier along the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from seqmtl.errors import SeqmtlError
from seqmtl.simulate.options import WHERE, check, chosen_rates
from seqmtl.simulate.policy import LATENT, Policy, Rows
from seqmtl.simulate.population import Side, lognormal, numbers, side, zipf
from seqmtl.simulate.raw_files import CHUNK, OracleFile, Report, silent
from seqmtl.simulate.settle import Played, settle
from seqmtl.simulate.truth import Funnel, Ints, Weights, directions

if TYPE_CHECKING:
    import polars as pl

FILE = "QK-video.csv"
TASKS = ("click", "follow", "like", "share")
RATES = {
    "default": {"click": 0.2412, "follow": 0.01, "like": 0.04, "share": 0.012},
    "paper": {"click": 0.2412, "follow": 0.0015, "like": 0.01894, "share": 0.00207},
}
AFTER = {"click": None, "follow": "click", "like": "click", "share": "click"}  # how they are drawn; the data promise no order
STRAY = 0.03
BEHAVIOURS = ((0, True), (1, True), (2, True), (3, True), (0, False))  # the last: skips
TASTE = np.array([
    [0.45, 0.05, 0.15, 0.05, -0.30],
    [0.15, 0.40, 0.20, 0.10, -0.15],
    [0.20, 0.10, 0.45, 0.10, -0.15],
    [0.20, 0.05, 0.20, 0.40, -0.15],
])  # fmt: skip
SHARES = {"user": 0.2, "item": 0.4, "product": 0.4}  # of the variance that is not history
USER_SIZES, USER_TOLD, USER_OWN = {"gender": 3, "age": 8}, {"gender": 0.4, "age": 0.6}, 0.6
ITEM_SIZES, ITEM_TOLD, ITEM_OWN = {"video_category": 40}, {"video_category": 1.0}, 0.3
ACTIVITY, CAP = 1.0, 20.0  # sigma of the logarithm of users' activity; the most active, in means
OUTSIDE, OUTSIDE_SHARE = 1_000_017, 0.03
MISSING = 0.01  # of the users have no gender, as many no age; of the items half as many each have an empty category and \N
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
    rows_per_user: float = 100,
    rows_per_item: float = 150,
    drift: float = 0,
    seed: int = 0,
    report: Report = silent,
) -> None:
    """Writes QK-video.csv and oracle_QK-video.parquet into `directory`.

    Args:
        rates: `default` (24.12 % click, 1 % follow, 4 % like, 1.2 % share), `paper` (24.12, 0.150, 1.894, 0.207 %), or a mapping.
        relatedness: correlation of theta of follow, like and share with theta of the click.
        oracle_auc: AUC of the true click probabilities; the other tasks' log-odds have the same strength.
        history: share of the signal's variance that is in the histories.
        zipf: exponent of the popularity of items and values.
        rows_per_user, rows_per_item: means; they set the sizes of the vocabularies.
        drift: 1 - correlation of theta at a user's first and last row.

    Raises:
        SeqmtlError: an option makes no sense.
    """
    chosen = chosen_rates(rates, RATES, AFTER)
    options = Options(rows, relatedness, oracle_auc, history, zipf, rows_per_user, rows_per_item, drift, seed)
    check(vars(options))
    for task in TASKS[1:]:
        if STRAY * chosen[task] >= 1 - chosen["click"]:
            raise SeqmtlError(
                f"{WHERE}: rates.{task} is too high: {STRAY:.0%} of it happen without a click, more than rows without one"
            )
    directory.mkdir(parents=True, exist_ok=True)
    world = World(options, list(chosen.values()), report)
    with (directory / FILE).open("wb") as f, OracleFile(directory, "QK-video", TASKS) as oracle:
        f.write(b"user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age\n")
        for played in world.play():
            world.write(f, played)
            oracle.add(played.probabilities)
            report("simulating", oracle.rows, oracle.rows / rows)


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
    """Users, items, and what users do."""

    def __init__(self, options: Options, rates: list[float], report: Report = silent) -> None:
        self.seed = options.seed
        rng = np.random.default_rng([options.seed, 0])
        n_users = max(20, round(options.rows / options.rows_per_user))
        n_items = max(20, round(options.rows / options.rows_per_item))
        activity = lognormal(rng, n_users, ACTIVITY, CAP)
        self.ends = np.round(np.cumsum(activity) * options.rows).astype(np.int64)  # of the users' rows in the file
        self.counts = np.diff(self.ends, prepend=0)
        self.users = side(
            rng, self.counts / options.rows, "user_id", USER_SIZES, USER_TOLD, own=USER_OWN, exponent=options.zipf, latent=LATENT
        )
        self.items = side(
            rng, zipf(n_items, options.zipf), "item_id", ITEM_SIZES, ITEM_TOLD, own=ITEM_OWN, exponent=options.zipf, latent=LATENT
        )
        self.texts = _texts(rng, self.users, self.items)
        self.policy = self._policy(options, rates)
        self._fit(options)
        settle(self.policy.funnel, self.play, options.rows, report)

    def _policy(self, options: Options, rates: list[float]) -> Policy:
        rng = np.random.default_rng([options.seed, 1])
        parents = (None, 0, 0, 0)
        weights = Weights({block: directions(rng, parents, LATENT, options.relatedness) for block in SHARES}, options.drift)
        funnel = Funnel(parents, rates, STRAY)
        return Policy(rng, weights, funnel, BEHAVIOURS, TASTE, options.relatedness, options.drift, options.history)

    def _fit(self, options: Options) -> None:
        rng = np.random.default_rng([options.seed, 2])
        users = rng.permutation(len(self.counts))
        users = np.sort(users[: 1 + np.searchsorted(np.cumsum(self.counts[users]), min(PILOT, options.rows))])
        n = int(self.counts[users].sum())
        met, _ = self.meet(users, self.items.draw(rng, n))
        shares = {block: (1 - options.history) * share for block, share in SHARES.items()}
        self.policy.fit(met, len(users), rng.random((n, len(TASKS))), shares, options.oracle_auc)

    def chunks(self) -> list[tuple[int, int]]:
        """From which user to which: about CHUNK rows each."""
        borders = np.searchsorted(self.ends, np.arange(CHUNK, self.ends[-1], CHUNK))
        borders = np.unique([0, *borders, len(self.ends)])
        return [(a, b) for a, b in pairwise(borders.tolist()) if self.rows_of(a, b)]

    def rows_of(self, first: int, last: int) -> int:
        return int(self.counts[first:last].sum())

    def play(self) -> Iterator[Played]:
        """All rows, in the order of the file."""
        for chunk, (first, last) in enumerate(self.chunks()):
            rng = np.random.default_rng([self.seed, 3, chunk])
            met, item = self.meet(np.arange(first, last), self.items.draw(rng, self.rows_of(first, last)))
            signal, happens = self.policy.play(met, rng.random((len(item), len(TASKS))), self.policy.state(last - first))
            yield Played({"user": first + met.user, "item": item}, happens, self.policy.funnel.probabilities(signal), rng)

    def meet(self, users: Ints, item: Ints) -> tuple[Rows, Ints]:
        """All rows of these users, who are numbered from 0 then."""
        counts = self.counts[users]
        user = np.repeat(np.arange(len(users)), counts)
        place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
        u, v = self.users.vectors[users[user]], self.items.vectors[item]
        time = place / np.maximum(counts[user] - 1, 1)
        return Rows(user, v, {"user": u, "item": v, "product": u * v}, time), item

    def write(self, f: BinaryIO, played: Played) -> None:
        """Appends rows to the file."""
        import polars as pl

        user, item, happens = played.met["user"], played.met["item"], played.happens
        again = np.floor(-0.7 * np.log1p(-played.rng.random(len(user)))).astype(np.int64)
        columns = {
            "user_id": self.texts["user_id"].gather(user),
            "item_id": self.texts["item_id"].gather(item),
            **{task: happens[:, t].astype(np.int8) for t, task in enumerate(TASKS)},
            "video_category": self.texts["video_category"].gather(item),
            "watching_times": np.where(happens[:, 0], 1 + again, 0),
            "gender": self.texts["gender"].gather(user),
            "age": self.texts["age"].gather(user),
        }
        pl.DataFrame(columns).write_csv(f, include_header=False, quote_style="never")


def _texts(rng: np.random.Generator, users: Side, items: Side) -> dict[str, pl.Series]:
    """What stands in the file for each user or item."""
    import polars as pl

    n, outside = len(users.weight), rng.random(len(users.weight)) < OUTSIDE_SHARE
    inside = np.cumsum(~outside)
    user = np.where(outside, max(OUTSIDE, int(inside[-1]) + 1) + np.cumsum(outside) - 1, inside)
    texts = {"user_id": pl.Series(user), "item_id": pl.Series(1 + numbers(items.ids["item_id"], len(items.weight)))}
    for name in ("gender", "age"):
        value = pl.Series(users.ids[name]).cast(pl.String)
        texts[name] = value.set(pl.Series(rng.random(n) < MISSING), "\\N")
    value, chance = pl.Series(1 + items.ids["video_category"]).cast(pl.String), rng.random(len(items.weight))
    value = value.set(pl.Series(chance < MISSING / 2), "")
    texts["video_category"] = value.set(pl.Series(chance > 1 - MISSING / 2), "\\N")
    return texts
