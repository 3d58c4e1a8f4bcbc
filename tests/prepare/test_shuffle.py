"""Rows that are dealt to buckets come back whole; a shuffle is a permutation that depends on the seed and not on the chunks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.shuffle import Buckets, Shuffle

TYPES = {"id": "int32", "truth": "float64"}


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    return {"id": np.arange(start, stop, dtype=np.int32), "truth": np.arange(start, stop) / 7}


def shuffled(directory: Path, n: int, buckets: int, seed: int, chunk: int) -> list[int]:
    with Shuffle(directory, TYPES, buckets, seed) as shuffle:
        for start in range(0, n, chunk):
            shuffle.add_rows(rows(start, min(start + chunk, n)))
        assert len(shuffle) == n
        order: list[int] = []
        for part in shuffle.chunks():
            assert np.array_equal(part["truth"], part["id"] / 7), "columns of a row stay together"
            order += part["id"].tolist()
    assert not directory.exists()
    return order


@given(n=st.integers(0, 200), buckets=st.integers(1, 6), seed=st.integers(0, 3), chunk=st.integers(1, 70))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_shuffle_is_a_permutation_whatever_the_chunks(tmp_path: Path, n: int, buckets: int, seed: int, chunk: int) -> None:
    order = shuffled(tmp_path / "spill", n, buckets, seed, chunk)
    assert sorted(order) == list(range(n))
    assert order == shuffled(tmp_path / "spill", n, buckets, seed, max(n, 1))


def test_every_place_is_as_likely(tmp_path: Path) -> None:
    """The mean place of each of 8 rows over 400 seeds is that of a fair shuffle, though the rows go through 3 buckets."""
    places = np.zeros(8)
    for seed in range(400):
        order = shuffled(tmp_path / "spill", 8, 3, seed, 8)
        places += np.argsort(order)
    # 3.5 on average, with a standard error of 2.29 / 20; a bound of four of them for eight rows.
    assert np.abs(places / 400 - 3.5).max() < 4 * 2.29 / 20


def test_rows_of_a_bucket_keep_their_order(tmp_path: Path) -> None:
    with Buckets(tmp_path / "spill", TYPES, 3) as buckets:
        for start in (0, 10):
            chunk = rows(start, start + 10)
            buckets.add(chunk, chunk["id"] % 3)
        assert buckets.rows.tolist() == [7, 7, 6]
        for bucket in range(3):
            assert buckets.read(bucket)["id"].tolist() == [i for i in range(20) if i % 3 == bucket]


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SeqmtlError, match="a part of the path is a file"):
        Buckets(tmp_path / "file" / "spill", TYPES, 2)


def test_a_disk_that_is_full_is_told_in_words_and_nothing_stays(tmp_path: Path) -> None:
    """Small pieces wait in a buffer, which is written, and fails, when the file is closed."""
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.shuffle import Shuffle
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with Shuffle(Path(sys.argv[1]), {"id": "int64"}, 1, 0) as shuffle:
        for _ in range(300):
            shuffle.add_rows({"id": np.arange(10)})
        list(shuffle.chunks())
except SeqmtlError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "spill")], capture_output=True, text=True, check=True)
    assert "the file would be larger than is allowed here" in done.stdout, done.stderr
    assert not (tmp_path / "spill").exists()
