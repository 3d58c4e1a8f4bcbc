"""`_row`: unique inside a split; and one raw row does not stand in two splits.

Unusual: numbers near the number of rows are marked in one byte each. Others (Spark's are spread over 63 bits) are dealt by a hash
to passes over that one column, and a pass fits into memory. Splits may come from files of their own, each numbered from 0
(Ali-CCP), so a number in two splits is a leak only where ids and labels are the same too, which a sample of the rows tells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import SPLITS
from seqmtl.prepare.check_files import Shard
from seqmtl.prepare.check_findings import Findings
from seqmtl.prepare.raw import Report

KIND = "_row"
BIT = {split: np.uint8(1 << s) for s, split in enumerate(SPLITS)}
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SAMPLE = 1 << 20  # rows whose contents are compared
PASS = 1 << 23  # rows of a pass
FEW = 10  # rows that prove nothing

Rows = NDArray[np.int64]


class RowNumbers:
    """Takes the row numbers of all splits.

    Args:
        total: rows of all splits.
    """

    def __init__(self, total: int, findings: Findings) -> None:
        self.total, self.findings = total, findings
        # Not more than a byte for each number that occurs is taken: the system gives memory when it is written to.
        self._seen: NDArray[np.uint8] | None = np.zeros(max(1 << 20, 8 * total), np.uint8)
        self._rows = dict.fromkeys(SPLITS, 0)
        self._highest = -1
        self._again: dict[str, int] = {}
        self._samples: dict[str, list[tuple[Rows, NDArray[np.uint64]]]] = {split: [] for split in SPLITS}

    def sample(self, row: Rows) -> NDArray[np.intp]:
        """The places of the rows of the sample, which depends on their numbers alone."""
        if self.total <= SAMPLE:
            return np.arange(len(row))
        return np.flatnonzero(_mixed(row) < np.uint64(2**32 * SAMPLE // self.total))

    def add(self, split: str, row: Rows, sample: Rows, content: NDArray[np.uint64]) -> None:
        """More rows of a split.

        Args:
            row: (n,); `sample`: those of the sample; `content`: a hash of ids and labels of these.
        """
        self._samples[split].append((sample, content))
        if len(row) and row.min() < 0:
            row = row[row >= 0]
        if not len(row):
            return
        self._rows[split] += len(row)
        self._highest = max(self._highest, int(row.max()))
        if self._seen is None or self._highest >= len(self._seen):
            self._seen = None
            return
        before = self._seen[row]
        if (before & BIT[split]).any():
            self._again.setdefault(split, int(row[np.argmax(before & BIT[split])]))
        self._seen[row] = before | BIT[split]

    def finish(self, shards: Mapping[str, Sequence[Shard]], report: Report) -> None:
        """Tells what stands twice."""
        if self._seen is not None:
            seen = self._seen[: self._highest + 1]
            twice = {split: n - int(np.count_nonzero(seen & BIT[split])) for split, n in self._rows.items()}
            both = {(a, b): int(np.count_nonzero((seen & (BIT[a] | BIT[b])) == BIT[a] | BIT[b])) for a, b in _pairs()}
        else:
            twice, both = self._passes(shards, report)
        for split, n in twice.items():
            if n:
                example = f", for example {self._again[split]}" if split in self._again else ""
                rows = "1 row has" if n == 1 else f"{n:,} rows have"
                self.findings.error(KIND, f"{split}: {rows} a number that an earlier row has{example}; _row must be unique")
        for (a, b), n in both.items():
            if n:
                self._leak(a, b, n)

    def _leak(self, a: str, b: str, n: int) -> None:
        (rows_a, content_a), (rows_b, content_b) = self._sample_of(a), self._sample_of(b)
        _, at_a, at_b = np.intersect1d(rows_a, rows_b, return_indices=True)
        here, there = content_a[at_a], content_b[at_b]
        same = np.mean(here == there) if len(here) else 0.0
        chance = np.mean(here == np.roll(there, 1)) if len(here) else 0.0  # of other rows, which have little in common
        if len(here) >= FEW and same > (1 + chance) / 2:
            self.findings.error(
                KIND, f"{n:,} raw rows stand in {a} and in {b}, with the same ids and labels; one split must not know the other"
            )
        elif len(here) < FEW and (same > 0 or not len(here)):
            self.findings.warn(
                KIND, f"{n:,} numbers stand in {a} and in {b}: right if these come from two files, else the splits share rows"
            )

    def _sample_of(self, split: str) -> tuple[Rows, NDArray[np.uint64]]:
        rows, content = zip(*self._samples[split], strict=True)
        return np.concatenate(rows), np.concatenate(content)

    def _passes(self, shards: Mapping[str, Sequence[Shard]], report: Report) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        """The same by passes over the column, each of a share of the numbers."""
        twice = dict.fromkeys(SPLITS, 0)
        both = dict.fromkeys(_pairs(), 0)
        n = -(-self.total // PASS)
        for number in range(n):
            unique = {}
            for split in SPLITS:
                mine = [row[_mixed(row) % np.uint64(n) == number] for row in _numbers(shards[split])]
                rows = np.sort(np.concatenate(mine)) if mine else np.zeros(0, np.int64)
                unique[split] = rows[np.diff(rows, prepend=-1) != 0]
                twice[split] += len(rows) - len(unique[split])
                report("check _row", (number + 1) * self.total // n, (number + 1) / n)
            for a, b in both:
                both[a, b] += len(np.intersect1d(unique[a], unique[b], assume_unique=True))
        return twice, both


def _pairs() -> list[tuple[str, str]]:
    return list(itertools.combinations(SPLITS, 2))


def _mixed(row: Rows) -> NDArray[np.uint64]:
    """32 bits of a hash of the number."""
    return (row.view(np.uint64) * GOLDEN) >> np.uint64(32)


def _numbers(shards: Sequence[Shard]) -> Iterator[Rows]:
    """The valid numbers of each row group; what is damaged was told before."""
    import pyarrow as pa

    for shard in shards:
        if "_row" not in shard.columns:
            continue
        with shard.open() as file:
            for group in range(len(shard.groups)):
                try:
                    column = file.read_row_group(group, columns=["_row"]).column("_row")
                except (pa.ArrowException, OSError, ValueError):
                    continue
                row = column.drop_null().to_numpy().astype(np.int64, copy=False)
                yield row[row >= 0]
