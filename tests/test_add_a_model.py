"""docs/add-a-model.md works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "add-a-model.md"


@pytest.mark.slow
def test_the_worked_example_trains(tmp_path: Path, dataset: Path) -> None:
    for language, path, text in re.findall(r"```(python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        # A user's own package stands in for src/seqmtl/models.
        target = tmp_path / path.replace("src/seqmtl/models", "mine")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("seqmtl.models.cascade", "mine.cascade"))
        assert language
    command = [
        sys.executable,
        "-m",
        "seqmtl.cli",
        "--config-dir",
        "conf",
        "model=cascade",
        "allow=[mine.]",
        "trainer=debug",
        "batch_size=50",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "cascade/bce/seed=1" in done.stdout
