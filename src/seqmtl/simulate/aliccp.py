"""Simulated raw files in the format of Ali-CCP (https://tianchi.aliyun.com/dataset/408), with known probabilities.

A latent-factor model: users and items are sums of the vectors of their attributes and of one that only their id tells,

    logit P(step t | its parent) = a_t + strength * <theta_t, phi(user, item, context)>,   phi = [user, item, context, user * item],

theta of the purchase has correlation `relatedness` with theta of the click; a_t is solved by bisection for the rates asked, the
strength for the AUC that the oracle shall have. Ali-CCP has no time: all training rows have the same theta, and all test rows have
one that is turned away from it by `drift`.

Unusual: `user * item` needs products of embeddings, so a linear model on one-hot fields stays below a good network, and both
stay below the oracle, which is written beside the raw files: `oracle_{train,test}.parquet`, P(click) and P(purchase) over all
impressions by `_row`, the number of the row in its skeleton file. Rows are made CHUNK by CHUNK: memory holds the users and the
items, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqmtl.simulate.aliccp_text import Text, keys_of
from seqmtl.simulate.options import check, chosen_rates
from seqmtl.simulate.population import Side, draw, side, spread, zipf
from seqmtl.simulate.raw_files import CHUNK, OracleFile, Report, silent
from seqmtl.simulate.settle import Played, settle
from seqmtl.simulate.truth import Floats, Funnel, Ints, Weights, directions, strength

PARENTS = {"click": None, "purchase": "click"}
RATES = {"default": {"click": 0.0389, "purchase": 0.008}, "paper": {"click": 0.0389, "purchase": 0.0002}}
USER_SIZES = {"121": 97, "122": 13, "124": 2, "125": 7, "126": 3, "127": 3, "128": 2, "129": 4}  # Ali-CCP's own
USER_WEIGHT = {"121": 0.15, "122": 0.4, "124": 0.05, "125": 0.25, "126": 0.05, "127": 0.02, "128": 0.03, "129": 0.05}
ITEM_WEIGHT = {"206": 0.65, "207": 0.1, "216": 0.25}  # how much of the item's vector an attribute tells
PILOT = 100_000  # rows on which the scales and the strength are found
LATENT = 2
POSITIONS = np.array([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
SHARES = {"user": 0.35, "item": 0.5, "context": 0.15}  # of the additive part of the signal's variance


def simulate(
    directory: Path,
    *,
    train_rows: int = 200_000,
    test_rows: int = 50_000,
    rates: str | Mapping[str, float] = "default",
    relatedness: float = 0.5,
    oracle_auc: float = 0.78,
    interaction: float = 0.5,
    own: float = 0.1,
    zipf: float = 0.8,
    rows_per_user: float = 100,
    rows_per_item: float = 200,
    drift: float = 0,
    seed: int = 0,
    report: Report = silent,
) -> None:
    """Writes the four raw files and the two oracles into `directory`.

    Args:
        rates: `default` (3.89 % click, 0.8 % purchase of impressions), `paper` (3.89 %, 0.02 %), or {click: x, purchase: y}.
        relatedness: correlation of the two tasks' theta.
        oracle_auc: AUC of the true click probabilities; the purchase's log-odds have the same strength.
        interaction: share of the signal's variance that comes from user * item.
        own: share of a user's or an item's vector that its attributes do not tell, only its id.
        zipf: exponent of the popularity of users, items and values.
        rows_per_user, rows_per_item: mean number of training rows; they set the sizes of the vocabularies.
        drift: 1 - correlation of theta in training and in test; the rates and the strength are the same in both.

    Raises:
        SeqmtlError: an option makes no sense.
    """
    chosen = chosen_rates(rates, RATES, PARENTS)
    options = Options(
        train_rows, test_rows, relatedness, oracle_auc, interaction, own, zipf, rows_per_user, rows_per_item, drift, seed
    )
    check(vars(options))
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory, options, list(chosen.values()), report)


@dataclass(frozen=True)
class Options:
    """What a simulation is asked for."""

    train_rows: int
    test_rows: int
    relatedness: float
    oracle_auc: float
    interaction: float
    own: float
    zipf: float
    rows_per_user: float
    rows_per_item: float
    drift: float
    seed: int


def population(options: Options) -> tuple[Side, Side]:
    """The users and the items."""
    rng = np.random.default_rng([options.seed, 0])
    n_users = max(20, round(options.train_rows / options.rows_per_user))
    n_items = max(20, round(options.train_rows / options.rows_per_item))
    item_sizes = {"206": max(8, n_items // 50), "207": max(10, n_items // 4), "216": max(8, n_items // 10)}
    users, items = (
        side(rng, zipf(n, options.zipf), key, sizes, told, own=options.own, exponent=options.zipf, latent=LATENT)
        for n, key, sizes, told in ((n_users, "101", USER_SIZES, USER_WEIGHT), (n_items, "205", item_sizes, ITEM_WEIGHT))
    )
    return users, items


def phi(row: Mapping[str, Ints], users: Side, items: Side) -> dict[str, Floats]:
    """The blocks, each (rows, LATENT), of who meets what where."""
    u, v = users.vectors[row["user"]], items.vectors[row["item"]]
    return {"user": u, "item": v, "context": POSITIONS[row["301"]], "product": u * v}


def _met(uniform: list[Floats], users: Side, items: Side) -> dict[str, Ints]:
    weights = {"user": users.weight, "item": items.weight, "301": zipf(3, 1)}
    return {name: draw(weight, u) for (name, weight), u in zip(weights.items(), uniform, strict=True)}


class Truth:
    """The log-odds of the two steps in a part: 0 training, 1 test."""

    def __init__(self, options: Options, rates: list[float], users: Side, items: Side, part: int, rows: int) -> None:
        rng = np.random.default_rng([options.seed, 1])
        self.seed, self.users, self.items, self.part, self.rows = options.seed, users, items, part, rows
        theta = {b: directions(rng, (None, 0), LATENT, options.relatedness) for b in ("user", "item", "context", "product")}
        self.weights = Weights(theta, options.drift)
        self.funnel = Funnel((None, 0), rates)
        pilot = phi(_met(spread(PILOT, 3), users, items), users, items)
        shares = {block: (1 - options.interaction) * share for block, share in SHARES.items()} | {"product": options.interaction}
        self.weights.share(pilot, part, shares)
        signal = self.weights.signal(pilot, part)
        self.weights.stretch(strength(signal[:, 0], rates[0], options.oracle_auc))
        self.funnel.solve(self.weights.signal(pilot, part))

    def play(self) -> Iterator[Played]:
        """All rows of the part."""
        for chunk, first in enumerate(range(0, self.rows, CHUNK)):
            rng = np.random.default_rng([self.seed, 3, self.part, chunk])
            row = _met([rng.random(min(CHUNK, self.rows - first)) for _ in range(3)], self.users, self.items)
            signal = self.weights.signal(phi(row, self.users, self.items), self.part)
            happens = self.funnel.draw(signal, rng.random(signal.shape))
            yield Played(row, happens, self.funnel.probabilities(signal), rng)


def _write(directory: Path, options: Options, rates: list[float], report: Report) -> None:
    users, items = population(options)
    text = Text(users.ids, items.ids)
    for part, split, rows in ((0, "train", options.train_rows), (1, "test", options.test_rows)):
        truth = Truth(options, rates, users, items, part, rows)
        settle(truth.funnel, truth.play, rows, report)
        rng = np.random.default_rng([options.seed, 2, part])
        keys = keys_of(rng.integers(0, 2**64, len(users.weight), dtype=np.uint64))
        seen = np.zeros(len(users.weight), bool)
        with (directory / f"sample_skeleton_{split}.csv").open("wb") as f, OracleFile(directory, split, list(PARENTS)) as oracle:
            for played in truth.play():
                text.skeleton(f, played.rng, oracle.rows, played.met, played.happens, keys)
                oracle.add(played.probabilities)
                seen[played.met["user"]] = True
                report(f"simulating {split}", oracle.rows, oracle.rows / rows)
        rng = np.random.default_rng([options.seed, 4, part])
        with (directory / f"common_features_{split}.csv").open("wb") as f:
            for some in np.split(np.flatnonzero(seen), range(CHUNK, int(seen.sum()), CHUNK)):
                text.common_features(f, rng, some, keys)
