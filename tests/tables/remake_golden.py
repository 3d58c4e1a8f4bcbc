"""Writes tests/tables/golden/ anew, after a change that is meant: python tests/tables/remake_golden.py, then look at `git diff`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from tables_by_hand import small_table

from seqmtl.tables.write import write

GOLDEN = Path(__file__).parent / "golden"


def comparable(text: str) -> str:
    """Without the drawings, whose numbers are matplotlib's; what they show in words stays."""
    return re.sub(r'<svg class="plot"[^>]*aria-label="([^"]*)".*?</svg>', r"[drawing: \1]", text, flags=re.S)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for path in write(small_table(), Path(folder)):
            (GOLDEN / path.name).write_text(comparable(path.read_text(encoding="utf-8")), encoding="utf-8")
            print(GOLDEN / path.name)
