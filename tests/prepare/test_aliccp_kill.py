"""`seqmtl prepare dataset=aliccp` killed at random moments: the next run makes what an undisturbed one makes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqmtl.data.meta import read_meta
from seqmtl.simulate.aliccp import simulate


def start(data: Path, raw: Path) -> subprocess.Popen[bytes]:
    words = ["prepare", "dataset=aliccp", f"data_dir={data}", f"raw_dir={raw}", "dataset.prepare.rows_per_shard=20000"]
    return subprocess.Popen([sys.executable, "-m", "seqmtl.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def left(data: Path) -> list[str]:
    return sorted(path.name for path in data.iterdir())


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    simulate(raw, train_rows=150_000, test_rows=50_000)
    began = time.monotonic()
    assert start(tmp_path / "quiet", raw).wait(300) == 0
    seconds = time.monotonic() - began
    wanted = read_meta(tmp_path / "quiet" / "aliccp")
    rng = random.Random(0)
    caught = 0
    for i in range(20):
        data = tmp_path / str(i)
        process = start(data, raw)
        time.sleep(seconds * rng.uniform(0.3, 1))  # the interpreter needs some time to begin
        process.kill()
        process.wait()
        caught += (data / ".aliccp.partial").exists()
        assert not (data / "aliccp").exists() or read_meta(data / "aliccp") == wanted
        assert start(data, raw).wait(300) == 0
        assert read_meta(data / "aliccp") == wanted
        assert left(data) == ["aliccp"]
        assert sorted(path.name for path in (data / "aliccp").iterdir()) == ["meta.json", "oracle", "test", "train", "valid"]
    assert caught, "no run was killed while it wrote"
