"""The configs of a table's rows against each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqmtl.tables.content import Row

ABSENT = "(absent)"


def own_options(rows: Sequence[Row]) -> dict[str, list[tuple[str, str, str]]]:
    """By label: (option, its value, what most rows have) where a row has not what most others have.

    Of two values that are as frequent the one of the earlier row counts as that of most.
    """
    flat = {row.label: dict(leaves(row.config)) for row in rows if row.config}
    keys = list(dict.fromkeys(key for config in flat.values() for key in config))
    usual = {key: Counter(config.get(key, ABSENT) for config in flat.values()).most_common(1)[0][0] for key in keys}
    return {
        label: [(key, config.get(key, ABSENT), usual[key]) for key in keys if config.get(key, ABSENT) != usual[key]]
        for label, config in flat.items()
    }


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`model.trunk.experts` and its value as JSON, for each option of a nested config."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)
