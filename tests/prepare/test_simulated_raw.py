"""Raw files of a simulator: made once, whole or not at all, never over others."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from seqmtl.errors import SeqmtlError
from seqmtl.prepare.simulated import STAMP, ensure_raw


def simulate(directory: Path, *, text: str, fail: bool = False, report: Any = None) -> None:
    (directory / "a.csv").write_text(text)
    if fail:
        raise OSError(errno.ENOSPC, "injected")
    (directory / "b.csv").write_text(text)


def ensure(raw_dir: Path, **options: Any) -> bool:
    return ensure_raw(raw_dir, simulate, options, lambda what, rows, share: None)


def test_made_once_and_again_with_other_options_or_when_a_file_is_damaged(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    assert ensure(raw, text="one")
    assert not ensure(raw, text="one")
    assert ensure(raw, text="two")
    assert (raw / "b.csv").read_text() == "two"
    (raw / "b.csv").write_text("t")
    assert ensure(raw, text="two")
    (raw / "a.csv").unlink()
    assert ensure(raw, text="two")
    assert sorted(p.name for p in raw.iterdir()) == ["a.csv", "b.csv", STAMP]
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError, match="no space left on the disk"):
        ensure(tmp_path / "raw", text="one", fail=True)
    assert not list(tmp_path.iterdir())
    ensure(tmp_path / "raw", text="one")
    with pytest.raises(SeqmtlError, match="no space left on the disk"):
        ensure(tmp_path / "raw", text="two", fail=True)
    assert (tmp_path / "raw" / "b.csv").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("stamped", [False, True])
def test_files_that_no_simulation_wrote_are_kept(tmp_path: Path, stamped: bool) -> None:
    raw = tmp_path / "raw"
    if stamped:
        ensure(raw, text="one")
    raw.mkdir(exist_ok=True)
    (raw / "sample_skeleton_train.csv").write_text("precious")
    with pytest.raises(
        SeqmtlError, match=r"files that no simulation wrote \(sample_skeleton_train.csv\); they are not overwritten"
    ):
        ensure(raw, text="two")
    assert (raw / "sample_skeleton_train.csv").read_text() == "precious"
