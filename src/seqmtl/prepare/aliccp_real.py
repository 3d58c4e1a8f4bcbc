"""What is known of the real files of Ali-CCP, to tell a damaged copy or a wrong conversion from a right one.

    training rows 42,300,135, clicks 1,644,256, purchases 9,032, of them 230 without a click: full scans of the file
    test rows     43,016,840
    vocabularies  printed by AITM's script (min_count 12), 0 included

9,032 purchases are those of the file, before the 230 are dropped: one public scan counts 8,802 among the clicks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from seqmtl.errors import SeqmtlError

TRAIN = {"rows": 42_300_135, "clicks": 1_644_256, "purchases": 9_032, "purchases without a click": 230}
TEST = {"rows": 43_016_840}
MIN_COUNT = 12
SIZES = {
    "101": 238_635, "121": 98, "122": 14, "124": 3, "125": 8, "126": 4, "127": 4, "128": 3, "129": 5,
    "205": 467_298, "206": 6_929, "207": 263_942, "216": 106_399,
    "508": 5_888, "509": 104_830, "702": 51_878, "853": 37_148, "301": 4,
}  # fmt: skip


def check_train(path: Path, counts: Mapping[str, int], sizes: Mapping[str, int], min_count: int) -> bool:
    """True if the file has as many rows as the real one; then all that is known of it must hold.

    Args:
        counts: of the raw rows, with the keys of TRAIN; `sizes`: of the vocabularies.

    Raises:
        SeqmtlError: a count differs.
    """
    if counts["rows"] != TRAIN["rows"]:
        return False
    _check(path, counts, TRAIN)
    if min_count == MIN_COUNT:
        _check(path, {f"ids of field {k}": n for k, n in sizes.items()}, {f"ids of field {k}": n for k, n in SIZES.items()})
    return True


def check_test(path: Path, counts: Mapping[str, int]) -> None:
    """What is known of the test file that belongs to the real training file."""
    _check(path, counts, TEST)


def _check(path: Path, found: Mapping[str, int], known: Mapping[str, int]) -> None:
    for what, n in known.items():
        if found[what] != n:
            raise SeqmtlError(
                f"{path} is taken for the real file of Ali-CCP ({TRAIN['rows']:,} training rows), which has {n:,} {what}, but"
                f" {found[what]:,} {what} were found. The copy is damaged: get it again"
            )
