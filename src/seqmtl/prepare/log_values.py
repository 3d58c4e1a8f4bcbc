"""Values of a log, numbers or strings, as numbers that fit into 32 bits; and the ids that they get in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.prepare.vocabulary import MISSING

if TYPE_CHECKING:
    import polars as pl

Ids = NDArray[np.int32]

WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"


class Codes:
    """Numbers the values of a column in the order in which they are first met, so that it does not matter how it was cut."""

    def __init__(self) -> None:
        self.values: pl.Series | None = None

    def __call__(self, values: pl.Series) -> Ids:
        """(n,) the code of each value, MISSING where there is none or an empty string."""
        import polars as pl

        code = pl.col("code").cast(pl.Int32)
        frame = values.alias("value").to_frame()
        known = (frame.clear() if self.values is None else self.values.to_frame()).with_row_index("code")
        new = frame.unique(maintain_order=True).drop_nulls()
        if values.dtype == pl.String:
            new = new.filter(pl.col("value") != "")
        new = new.join(known, on="value", how="anti", maintain_order="left")
        if len(new):
            known = pl.concat([known, new.with_row_index("code", offset=len(known))])
            self.values = known["value"]
        return (
            frame.join(known.with_columns(code), on="value", how="left", maintain_order="left")["code"]
            .fill_null(MISSING)
            .to_numpy()
        )

    def vocabulary(self, known: Ids) -> CodedVocabulary:
        """The ids of the codes that are known, in the order of their values: whole numbers as numbers, all else as text."""
        import polars as pl

        values = pl.Series([], dtype=pl.Int64) if self.values is None else self.values
        if values.dtype == pl.String and values.str.contains(WHOLE).all():
            values = values.cast(pl.Int64)
        order = values.gather(known).arg_sort().to_numpy()
        return CodedVocabulary(known[order], len(values))


class CodedVocabulary:
    """1 for the first of `known` codes, and so on; 0 for the others of the `n` that there are, and for MISSING."""

    def __init__(self, known: Ids, n: int) -> None:
        self.size = len(known) + 1
        self.table: NDArray[Any] = np.zeros(n + 1, np.int32)
        self.table[known] = np.arange(1, self.size)

    def encode(self, codes: Ids) -> Ids:
        return self.table.take(np.minimum(codes, len(self.table) - 1))
