"""A simulated log of offers of credit cards in an app: click → application → approval → activation, each only after the one before.

    logit P(step t | step t - 1) = a_t + strength * <theta_t(time), phi>,   phi = [user, card, context, user * card]

The rates are those of Meituan (AITM, KDD 2021, Table 1, before the negatives of its training part were thinned); nobody has
published such data, so the layout is ours (raw_files.py). `drift` turns theta slowly from the first row to the last.

Unusual: nothing is thinned in the log, since what share of the negatives a model sees is a choice of the training. The default
rates make the last steps likelier: 300,000 rows at 0.025 % hold 75 activations, by which no two models could be told apart. The
conditional rates keep their shape (18, 50 and 25 % instead of 3.9, 38 and 7.6 %): applying is a high step, approval a low one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqmtl.simulate.options import check, chosen_rates
from seqmtl.simulate.population import Places, Side, draw, side, spread, zipf
from seqmtl.simulate.raw_files import CHUNK, SPAN, Log, OracleFile, Report, clock, silent
from seqmtl.simulate.settle import Played, settle
from seqmtl.simulate.truth import Floats, Funnel, Ints, Weights, directions, strength

PARENTS = {"click": None, "application": "click", "approval": "application", "activation": "approval"}
NUMBERS = (None, 0, 1, 2)
RATES = {
    "default": {"click": 0.225, "application": 0.04, "approval": 0.02, "activation": 0.005},
    "paper": {"click": 0.225, "application": 0.0087, "approval": 0.0033, "activation": 0.00025},
}
USER_SIZES = {"age": 8, "gender": 2, "city": 300, "occupation": 20, "income": 10, "credit": 12, "device": 40, "audience": 6}
USER_TOLD = {
    "age": 0.15,
    "gender": 0.05,
    "city": 0.2,
    "occupation": 0.15,
    "income": 0.15,
    "credit": 0.2,
    "device": 0.05,
    "audience": 0.05,
}
CARD_SIZES, CARD_TOLD = {"bank": 15, "card_type": 8, "benefit": 25}, {"bank": 0.5, "card_type": 0.2, "benefit": 0.3}
PLACE_TOLD = {"scene": 0.4, "position": 0.4, "hour": 0.2}
SHARES = {"user": 0.45, "item": 0.35, "context": 0.2}  # of the additive part of the signal's variance
LATENT = 4
PILOT = 40_000  # rows on which the scales and the strength are found


def simulate(
    directory: Path,
    *,
    rows: int = 300_000,
    rates: str | Mapping[str, float] = "default",
    relatedness: float = 0.5,
    oracle_auc: float = 0.75,
    interaction: float = 0.5,
    own: float = 0.1,
    zipf: float = 0.8,
    rows_per_user: float = 20,
    rows_per_item: float = 1000,
    drift: float = 0.1,
    seed: int = 0,
    report: Report = silent,
) -> None:
    """Writes log-*.parquet and oracle_log.parquet into `directory`.

    Args:
        rates: `default` (22.5 % click, 4 % application, 2 % approval, 0.5 % activation, of impressions), `paper` (22.5, 0.87, 0.33,
            0.025 %), or a mapping.
        relatedness: correlation of a step's theta with that of the step before.
        oracle_auc: AUC of the true click probabilities; the other steps' log-odds have the same strength.
        interaction: share of the signal's variance that comes from user * card.
        own: share of a user's or a card's vector that its attributes do not tell, only its id.
        zipf: exponent of the popularity of users, cards and values.
        rows_per_user, rows_per_item: means; they set the sizes of the vocabularies.
        drift: 1 - correlation of theta at the first and the last row.

    Raises:
        SeqmtlError: an option makes no sense.
    """
    chosen = chosen_rates(rates, RATES, PARENTS)
    options = Options(rows, relatedness, oracle_auc, interaction, own, zipf, rows_per_user, rows_per_item, drift, seed)
    check(vars(options))
    directory.mkdir(parents=True, exist_ok=True)
    world = World(options, list(chosen.values()), report)
    user_columns, card_columns = world.users.numbers(), world.cards.numbers()
    with Log(directory) as log, OracleFile(directory, "log", list(PARENTS)) as oracle:
        for played in world.play():
            met, happens = played.met, played.happens
            log.add({
                "time": met["time"],
                **{name: of[met["user"]] for name, of in user_columns.items()},
                **{name: of[met["item"]] for name, of in card_columns.items()},
                **{name: (1 + met[name]).astype(np.int32) for name in ("scene", "position")},
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
    interaction: float
    own: float
    zipf: float
    rows_per_user: float
    rows_per_item: float
    drift: float
    seed: int


class World:
    """Users, cards, places, and the truth about them."""

    def __init__(self, options: Options, rates: list[float], report: Report = silent) -> None:
        self.seed, self.rows = options.seed, options.rows
        rng = np.random.default_rng([options.seed, 0])
        self.users = _side(rng, options.rows / options.rows_per_user, "user_id", USER_SIZES, USER_TOLD, options)
        self.cards = _side(rng, options.rows / options.rows_per_item, "card", CARD_SIZES, CARD_TOLD, options)
        weight = {"scene": zipf(6, options.zipf), "position": zipf(4, 1), "hour": np.full(24, 1 / 24)}
        self.places = Places(rng, weight, PLACE_TOLD, LATENT)
        rng = np.random.default_rng([options.seed, 1])
        blocks = (*SHARES, "product")
        theta = {block: directions(rng, NUMBERS, LATENT, options.relatedness) for block in blocks}
        self.weights = Weights(theta, options.drift)
        self.funnel = Funnel(NUMBERS, rates)
        self._fit(options)
        settle(self.funnel, self.play, options.rows, report)

    def _fit(self, options: Options) -> None:
        time, *uniform = spread(PILOT, 5)
        pilot = self.phi(self._meet(uniform, (time * SPAN).astype(np.int64) // 3600 % 24))
        shares = {block: (1 - options.interaction) * share for block, share in SHARES.items()} | {"product": options.interaction}
        self.weights.share(pilot, time, shares)
        signal = self.weights.signal(pilot, time)
        self.weights.stretch(strength(signal[:, 0], self.funnel.rates[0], options.oracle_auc))
        self.funnel.solve(self.weights.signal(pilot, time))

    def play(self) -> Iterator[Played]:
        """All rows, in time order."""
        for chunk, first in enumerate(range(0, self.rows, CHUNK)):
            rng = np.random.default_rng([self.seed, 3, chunk])
            n = min(CHUNK, self.rows - first)
            second, hour, time = clock(first, n, self.rows)
            met = self._meet([rng.random(n) for _ in range(4)], hour)
            signal = self.weights.signal(self.phi(met), time)
            happens = self.funnel.draw(signal, rng.random(signal.shape))
            yield Played(met | {"time": second}, happens, self.funnel.probabilities(signal), rng)

    def _meet(self, uniform: list[Floats], hour: Ints) -> dict[str, Ints]:
        """Numbers of users, cards and places, by four sequences of uniform numbers."""
        weights = {"user": self.users.weight, "item": self.cards.weight} | {n: self.places.weight[n] for n in ("scene", "position")}
        return {name: draw(weight, u) for (name, weight), u in zip(weights.items(), uniform, strict=True)} | {"hour": hour}

    def phi(self, met: Mapping[str, Ints]) -> dict[str, Floats]:
        """The blocks, each (rows, LATENT)."""
        u, v = self.users.vectors[met["user"]], self.cards.vectors[met["item"]]
        return {"user": u, "item": v, "context": self.places.vectors(met), "product": u * v}


def _side(
    rng: np.random.Generator, n: float, key: str, sizes: Mapping[str, int], told: Mapping[str, float], options: Options
) -> Side:
    weight = zipf(max(20, round(n)), options.zipf)
    return side(rng, weight, key, sizes, told, own=options.own, exponent=options.zipf, latent=LATENT)
