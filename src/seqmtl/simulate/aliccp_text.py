"""The text of Ali-CCP's raw files: `id,click,purchase,common_index,n,features`.

A feature is `field \\x02 id \\x03 value`, with \\x01 between two.

Unusual: the rows are made column by column by Polars, not in a Python loop.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]

# Raw ids of a field start here, far from 0 and from each other, as those of Ali-CCP do.
BASE = {
    "101": 100_000, "121": 3_438_600, "122": 3_438_700, "124": 3_438_780, "125": 3_438_800, "126": 3_438_810, "127": 3_438_815,
    "128": 3_438_820, "129": 3_438_830, "205": 3_900_000, "206": 8_310_000, "207": 8_320_000, "216": 9_000_000,
    "301": 9_351_665, "508": 9_360_000, "509": 9_500_000, "702": 11_000_000, "853": 12_000_000,
}  # fmt: skip
# The crosses: an attribute of the user with one of the item.
CROSSES = {"508": ("124", "206"), "509": ("126", "207"), "702": ("127", "216"), "853": ("128", "206")}
MULTI_USER = {
    "109_14": 2_000_000,
    "110_14": 2_100_000,
    "127_14": 2_700_000,
    "150_14": 3_000_000,
}  # lists, which seqmtl ignores
MULTI_ITEM = {"210": 8_900_000}
SPREAD = 7919  # a prime: neighbours in popularity are not neighbours in number


def raw_ids(field: str, ids: Ints, size: int) -> Ints:
    """Numbers of the format's own kind for ids 0..size-1; not in the order of popularity."""
    factor = SPREAD if size % SPREAD else SPREAD + 2
    return BASE[field] + (ids * factor) % size


def common_features(rng: np.random.Generator, fields: dict[str, Ints], index: NDArray[np.uint64], users: Ints) -> bytes:
    """One line for each of `users`: its fields and a few lists."""
    raw = {name: raw_ids(name, ids, int(ids.max()) + 1) for name, ids in fields.items()}
    lines = []
    for user in users.tolist():
        features = [f"{name}\x02{ids[user]}\x031.0" for name, ids in raw.items()]
        for name, base in MULTI_USER.items():
            values = rng.integers(0, 500, 2)
            features += [f"{name}\x02{base + value}\x03{weight:.5f}" for value, weight in zip(values, rng.random(2), strict=True)]
        lines.append(f"{int(index[user]):016x},{len(features)},{chr(1).join(features)}\n")
    return "".join(lines).encode()


def skeleton(
    rng: np.random.Generator,
    row: dict[str, Ints],
    users: dict[str, Ints],
    items: dict[str, Ints],
    index: NDArray[np.uint64],
    click: NDArray[np.bool_],
    purchase: NDArray[np.bool_],
) -> bytes:
    """One line for each impression: labels, the user's common index, the item's fields, the crosses, the context, a list."""
    import polars as pl

    columns = {name: raw_ids(name, ids, int(ids.max()) + 1)[row["item"]] for name, ids in items.items()}
    for name, (of_user, of_item) in CROSSES.items():
        size = int(items[of_item].max()) + 1
        cross = users[of_user][row["user"]] * size + items[of_item][row["item"]]
        columns[name] = raw_ids(name, cross, (int(users[of_user].max()) + 1) * size)
    columns["301"] = raw_ids("301", row["301"], 3)
    lists = {f"{name}/{i}": base + rng.integers(0, 500, len(click)) for name, base in MULTI_ITEM.items() for i in range(2)}
    features = [_feature(name) for name in (*columns, *lists)]
    keys = pl.Series([f"{int(i):016x}" for i in index])
    frame = pl.DataFrame({
        "sample": np.arange(1, len(click) + 1),
        "click": click.astype(np.int8),
        "purchase": purchase.astype(np.int8),
        "index": keys.gather(row["user"]),
        "n": np.full(len(click), len(features)),
        **columns,
        **lists,
    })  # fmt: skip
    text = frame.select("sample", "click", "purchase", "index", "n", pl.concat_str(features, separator="\x01").alias("features"))
    buffer = io.BytesIO()
    text.write_csv(buffer, include_header=False, quote_style="never")
    return buffer.getvalue()


def _feature(column: str) -> pl.Expr:
    import polars as pl

    return pl.format(f"{column.split('/')[0]}\x02{{}}\x031.0", pl.col(column))
