"""The text of Ali-CCP's raw files: `id,click,purchase,common_index,n,features`.

A feature is `field \\x02 id \\x03 value`, with \\x01 between two.

Unusual: every text that comes back (an item's features, a cross, a user's key) is made once and gathered by number; rows are put
together column by column by Polars, not in a Python loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seqmtl.simulate.population import numbers
from seqmtl.simulate.truth import Bools, Ints

if TYPE_CHECKING:
    import polars as pl

# Raw ids of a field start here, far from 0 and from each other, as those of Ali-CCP do.
BASE = {
    "101": 100_000, "121": 3_438_600, "122": 3_438_700, "124": 3_438_780, "125": 3_438_800, "126": 3_438_810, "127": 3_438_815,
    "128": 3_438_820, "129": 3_438_830, "205": 3_900_000, "206": 8_310_000, "207": 8_320_000, "216": 9_000_000,
    "301": 9_351_665, "508": 9_360_000, "509": 9_500_000, "702": 11_000_000, "853": 12_000_000,
}  # fmt: skip
# The crosses: an attribute of the user with one of the item.
CROSSES = {"508": ("124", "206"), "509": ("126", "207"), "702": ("127", "216"), "853": ("128", "206")}
# Lists, which seqmtl ignores unless they are asked for: two values each of LIST_VALUES.
MULTI_USER = {"109_14": 2_000_000, "110_14": 2_100_000, "127_14": 2_700_000, "150_14": 3_000_000}
MULTI_ITEM = {"210": 8_900_000}
LIST_VALUES = 500
BETWEEN = "\x01"


def raw_ids(field: str, ids: Ints, size: int) -> Ints:
    """Numbers of the format's own kind for ids 0..size-1; not in the order of popularity."""
    return BASE[field] + numbers(ids, size)


class Text:
    """The texts of a population.

    Args:
        users, items: the ids of each field, by number of the user and of the item.
    """

    def __init__(self, users: Mapping[str, Ints], items: Mapping[str, Ints]) -> None:
        import polars as pl

        self.users, self.items = users, items
        self.sizes = {name: int(ids.max()) + 1 for name, ids in (*users.items(), *items.items())}
        self.user = _joined([_features(name, raw_ids(name, ids, self.sizes[name])) for name, ids in users.items()])
        self.item = _joined([_features(name, raw_ids(name, ids, self.sizes[name])) for name, ids in items.items()])
        self.context = _features("301", raw_ids("301", np.arange(3), 3))
        self.cross = {}
        for name, (of_user, of_item) in CROSSES.items():
            size = self.sizes[of_user] * self.sizes[of_item]
            self.cross[name] = _features(name, raw_ids(name, np.arange(size), size))
        self.list_item = {name: _features(name, base + np.arange(LIST_VALUES)) for name, base in MULTI_ITEM.items()}
        self.list_user = {
            name: pl.select(pl.format("{}\x02{}\x030.", pl.lit(name), pl.int_range(base, base + LIST_VALUES))).to_series()
            for name, base in MULTI_USER.items()
        }
        self.decimals = pl.select(pl.int_range(100_000).cast(pl.String).str.zfill(5)).to_series()
        self.n_common = len(users) + 2 * len(MULTI_USER)
        self.n_own = len(items) + len(CROSSES) + 1 + 2 * len(MULTI_ITEM)

    def common_features(self, f: BinaryIO, rng: np.random.Generator, users: Ints, keys: pl.Series) -> None:
        """Appends one line for each of `users`: its fields and a few lists with weights."""
        import polars as pl

        features = [self.user.gather(users)]
        for texts in self.list_user.values():
            for _ in range(2):
                value, decimals = texts.gather(rng.integers(0, LIST_VALUES, len(users))), rng.integers(0, 100_000, len(users))
                features.append(value + self.decimals.gather(decimals))
        _write(f, {"index": keys.gather(users), "n": pl.repeat(self.n_common, len(users), eager=True)}, features)

    def skeleton(
        self, f: BinaryIO, rng: np.random.Generator, first: int, row: Mapping[str, Ints], happens: Bools, keys: pl.Series
    ) -> None:
        """Appends one line for each impression: labels, the user's key, the item's fields, the crosses, the context, a list.

        Args:
            first: number of the first of these rows in its file.
            happens: (rows, 2), click and purchase.
        """
        import polars as pl

        user, item, rows = row["user"], row["item"], len(happens)
        features = [self.item.gather(item)]
        for name, (of_user, of_item) in CROSSES.items():
            features.append(self.cross[name].gather(self.users[of_user][user] * self.sizes[of_item] + self.items[of_item][item]))
        features.append(self.context.gather(row["301"]))
        features += [t.gather(rng.integers(0, LIST_VALUES, rows)) for t in self.list_item.values() for _ in range(2)]
        columns = {
            "sample": pl.Series(np.arange(first + 1, first + rows + 1)),
            "click": pl.Series(happens[:, 0].astype(np.int8)),
            "purchase": pl.Series(happens[:, 1].astype(np.int8)),
            "index": keys.gather(user),
            "n": pl.repeat(self.n_own, rows, eager=True),
        }
        _write(f, columns, features)


def keys_of(index: NDArray[np.uint64]) -> pl.Series:
    """The 16 hexadecimal digits of each number."""
    import polars as pl

    digits = np.frombuffer(index.astype(">u8").tobytes().hex().encode(), "S16")
    return pl.Series(digits.astype("U16"))


def _features(field: str, ids: Ints) -> pl.Series:
    import polars as pl

    return pl.select(pl.format("{}\x02{}\x031.0", pl.lit(field), pl.lit(pl.Series(ids)))).to_series()


def _joined(texts: list[pl.Series]) -> pl.Series:
    import polars as pl

    frame = pl.DataFrame({str(i): text for i, text in enumerate(texts)})
    return frame.select(pl.concat_str(pl.all(), separator=BETWEEN)).to_series()


def _write(f: BinaryIO, columns: Mapping[str, pl.Series], features: list[pl.Series]) -> None:
    import polars as pl

    frame = pl.DataFrame({**columns, "features": _joined(features)})
    frame.write_csv(f, include_header=False, quote_style="never")
