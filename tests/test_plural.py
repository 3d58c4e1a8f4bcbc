"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from seqmtl.plural import plural


@pytest.mark.parametrize(("n", "words"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (1200, "1,200 jobs")])
def test_one_has_no_s(n: int, words: str) -> None:
    assert plural(n, "job") == words
