"""What a simulation of Ali-CCP is asked for, and what makes no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from seqmtl.errors import SeqmtlError

WHERE = "dataset.prepare.simulate"
RATES = {"default": {"click": 0.0389, "purchase": 0.008}, "paper": {"click": 0.0389, "purchase": 0.0002}}


def chosen_rates(rates: str | Mapping[str, float]) -> tuple[float, float]:
    """The rates of click and purchase, of all impressions."""
    chosen = RATES.get(rates) if isinstance(rates, str) else rates
    if not isinstance(chosen, Mapping) or set(chosen) != {"click", "purchase"}:
        raise SeqmtlError(f"dataset.rates must be default, paper or {{click: x, purchase: y}}, not {rates!r}")
    return chosen["click"], chosen["purchase"]


@dataclass(frozen=True)
class Options:
    """What a simulation is asked for; checked when made."""

    train_rows: int
    test_rows: int
    click: float
    purchase: float
    relatedness: float
    oracle_auc: float
    interaction: float
    own: float
    zipf: float
    rows_per_user: float
    rows_per_item: float
    seed: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kinds = (int,) if name in ("train_rows", "test_rows", "seed") else (int, float)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise SeqmtlError(f"{WHERE}: {name} must be {'a whole' if kinds == (int,) else 'a'} number, not {value!r}")
        for name, right, what in (
            ("train_rows", self.train_rows > 0, "must be above 0"),
            ("test_rows", self.test_rows > 0, "must be above 0"),
            ("rates.click", 0 < self.click < 1, "must lie between 0 and 1"),
            ("rates.purchase", 0 < self.purchase < 1, "must lie between 0 and 1"),
            ("rates.purchase", self.purchase < self.click, "must be below rates.click: a purchase needs a click"),
            ("relatedness", -1 <= self.relatedness <= 1, "must lie between -1 and 1"),
            ("oracle_auc", 0.5 <= self.oracle_auc <= 0.95, "must lie between 0.5 and 0.95"),
            ("interaction", 0 <= self.interaction <= 1, "must lie between 0 and 1"),
            ("own", 0 <= self.own <= 1, "must lie between 0 and 1"),
            ("zipf", self.zipf >= 0, "must not be negative"),
            ("rows_per_user", self.rows_per_user > 0, "must be above 0"),
            ("rows_per_item", self.rows_per_item > 0, "must be above 0"),
            ("seed", self.seed >= 0, "must not be negative"),
        ):
            if not right:
                raise SeqmtlError(f"{WHERE}: {name} {what}; the options are {asdict(self)}")
