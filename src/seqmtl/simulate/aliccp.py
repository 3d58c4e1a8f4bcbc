"""Simulated raw files in the format of Ali-CCP (https://tianchi.aliyun.com/dataset/408), with known probabilities.

A latent-factor model: users and items are sums of the vectors of their attributes and of one that only their id tells,

    logit P(step t | its parent) = a_t + strength * <theta_t, phi(user, item, context)> / sd,
    phi = [user, item, context, user * item],

theta of the purchase has correlation `relatedness` with theta of the click; a_t is solved by bisection for the rates asked, the
strength for the AUC that the oracle shall have.

Unusual: `user * item` needs products of embeddings, so a linear model on one-hot fields stays below a good network, and both
stay below the oracle, which is written beside the raw files: `oracle_{train,test}.parquet`, P(click) and P(purchase) over all
impressions by `_row`, the number of the row in its skeleton file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqmtl.simulate.aliccp_options import Options, chosen_rates
from seqmtl.simulate.aliccp_text import common_features, skeleton

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

USER_SIZES = {"121": 97, "122": 13, "124": 2, "125": 7, "126": 3, "127": 3, "128": 2, "129": 4}  # Ali-CCP's own
USER_WEIGHT = {"121": 0.15, "122": 0.4, "124": 0.05, "125": 0.25, "126": 0.05, "127": 0.02, "128": 0.03, "129": 0.05}
ITEM_WEIGHT = {"206": 0.65, "207": 0.1, "216": 0.25}  # how much of the item's vector an attribute tells
SOLVED_ON = 20_000  # training rows on which the strength of the signal is found
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
    seed: int = 0,
    report: Callable[[str, int, float], None] = lambda what, rows, share: None,
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

    Raises:
        SeqmtlError: an option makes no sense.
    """
    click, purchase = chosen_rates(rates)
    options = Options(
        train_rows, test_rows, click, purchase, relatedness, oracle_auc, interaction, own, zipf, rows_per_user, rows_per_item, seed
    )
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory, options, report)


@dataclass
class _Side:
    """Users or items: the ids of each field (N,), the vectors (N, LATENT), how often each is met (N,)."""

    ids: dict[str, Ints]
    vectors: Floats
    weight: Floats


def _zipf(n: int, exponent: float) -> Floats:
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weight / weight.sum()


def _side(
    rng: np.random.Generator, n: int, key: str, sizes: Mapping[str, int], share: Mapping[str, float], options: Options
) -> _Side:
    weight = _zipf(n, options.zipf)
    vectors = np.sqrt(options.own) * rng.standard_normal((n, LATENT))
    ids: dict[str, Ints] = {key: np.arange(n)}
    for name, size in sizes.items():
        ids[name] = rng.choice(size, n, p=_zipf(size, options.zipf))
        told = _standard(rng.standard_normal((size, LATENT))[ids[name]], weight)
        vectors += np.sqrt((1 - options.own) * share[name]) * told
    return _Side(ids, _standard(vectors, weight), weight)


def _standard(vectors: Floats, weight: Floats) -> Floats:
    """Mean 0 and variance 1 over the impressions; else user * item would leak into the additive part."""
    centred = vectors - weight @ vectors
    return centred / np.sqrt(np.maximum(weight @ centred**2, 1e-12))


def _population(options: Options) -> tuple[_Side, _Side]:
    rng = np.random.default_rng([options.seed, 0])
    n_users = max(20, round(options.train_rows / options.rows_per_user))
    n_items = max(20, round(options.train_rows / options.rows_per_item))
    item_sizes = {"206": max(8, n_items // 50), "207": max(10, n_items // 4), "216": max(8, n_items // 10)}
    return (
        _side(rng, n_users, "101", USER_SIZES, USER_WEIGHT, options),
        _side(rng, n_items, "205", item_sizes, ITEM_WEIGHT, options),
    )


def _phi(rng: np.random.Generator, rows: int, users: _Side, items: _Side) -> tuple[dict[str, Ints], dict[str, Floats]]:
    """Who meets what where, and the blocks of phi, each (rows, 2)."""
    row = {
        "user": rng.choice(len(users.weight), rows, p=users.weight),
        "item": rng.choice(len(items.weight), rows, p=items.weight),
        "301": rng.choice(3, rows, p=_zipf(3, 1.0)),
    }
    u, v = users.vectors[row["user"]], items.vectors[row["item"]]
    return row, {"user": u, "item": v, "context": POSITIONS[row["301"]], "product": u * v}


def _thetas(options: Options) -> dict[str, tuple[Floats, Floats]]:
    """Unit vectors of the two tasks for each block of phi; their inner product is the relatedness."""
    rng = np.random.default_rng([options.seed, 1])
    thetas = {}
    for block, size in (("user", LATENT), ("item", LATENT), ("context", 2), ("product", LATENT)):
        click = rng.standard_normal(size)
        click /= np.linalg.norm(click)
        other = rng.standard_normal(size)
        other -= (other @ click) * click
        other /= np.linalg.norm(other)
        thetas[block] = click, options.relatedness * click + np.sqrt(1 - options.relatedness**2) * other
    return thetas


class _Truth:
    """The log-odds of the two steps; centres, scales and intercepts are found on the training rows."""

    def __init__(self, options: Options, phi: dict[str, Floats]) -> None:
        share = {k: (1 - options.interaction) * s for k, s in SHARES.items()} | {"product": options.interaction}
        self.terms: list[list[tuple[str, Floats, float, float]]] = [[], []]
        for block, thetas in _thetas(options).items():
            for terms, theta in zip(self.terms, thetas, strict=True):
                part = phi[block] @ theta
                scale = np.sqrt(share[block]) / max(part.std(), 1e-9)
                terms.append((block, theta, float(part.mean()), float(scale)))
        self.strength = 1.0
        self.strength = _strength(self._signal(phi, 0)[:SOLVED_ON], options.click, options.oracle_auc)
        first, second = self._signal(phi, 0), self._signal(phi, 1)
        self.a_click = _intercept(first, np.ones_like(first), options.click)
        self.a_purchase = _intercept(second, _sigmoid(self.a_click + first), options.purchase)

    def _signal(self, phi: dict[str, Floats], task: int) -> Floats:
        parts = [(phi[block] @ theta - centre) * scale for block, theta, centre, scale in self.terms[task]]
        return self.strength * np.sum(parts, axis=0)

    def probabilities(self, phi: dict[str, Floats]) -> tuple[Floats, Floats]:
        """P(click) and P(purchase) over all impressions."""
        click = _sigmoid(self.a_click + self._signal(phi, 0))
        return click, click * _sigmoid(self.a_purchase + self._signal(phi, 1))


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def _intercept(signal: Floats, weight: Floats, rate: float) -> float:
    """a such that the mean of weight * sigmoid(a + signal) is `rate`."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (weight * _sigmoid(middle + signal)).mean() < rate else (low, middle)
    return (low + high) / 2


def _strength(signal: Floats, rate: float, auc: float) -> float:
    """s such that sigmoid(a + s * signal) with mean `rate` has this AUC as a score of its own outcome."""
    signal = np.sort(signal)
    low, high = 0.0, 8.0
    for _ in range(25):
        middle = (low + high) / 2
        p = _sigmoid(_intercept(middle * signal, np.ones_like(signal), rate) + middle * signal)
        below = np.cumsum(1 - p) - (1 - p) / 2  # negatives ranked below each row, half of its own
        reached = (p * below).sum() / (p.sum() * (1 - p).sum())
        low, high = (middle, high) if reached < auc else (low, middle)
    return (low + high) / 2


def _write(directory: Path, options: Options, report: Callable[[str, int, float], None]) -> None:
    import polars as pl

    users, items = _population(options)
    truth: _Truth | None = None
    done, total = 0, options.train_rows + options.test_rows
    for stream, (split, rows) in enumerate((("train", options.train_rows), ("test", options.test_rows)), start=2):
        rng = np.random.default_rng([options.seed, stream])
        row, phi = _phi(rng, rows, users, items)
        truth = truth or _Truth(options, phi)
        p_click, p_purchase = truth.probabilities(phi)
        click = rng.random(rows) < p_click
        purchase = click & (rng.random(rows) < p_purchase / p_click)
        index = rng.integers(0, 2**64, len(users.weight), dtype=np.uint64)
        text = common_features(rng, users.ids, index, np.unique(row["user"]))
        (directory / f"common_features_{split}.csv").write_bytes(text)
        text = skeleton(rng, row, users.ids, items.ids, index, click, purchase)
        (directory / f"sample_skeleton_{split}.csv").write_bytes(text)
        oracle = pl.DataFrame({"_row": np.arange(rows), "click": p_click, "purchase": p_purchase})
        buffer = io.BytesIO()
        oracle.write_parquet(buffer)
        (directory / f"oracle_{split}.parquet").write_bytes(buffer.getbuffer())
        done += rows
        report("simulating", done, done / total)
