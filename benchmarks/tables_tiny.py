"""Every table and every part of it, from simulated data to the report, at a size that says nothing but that all of it runs.

    python benchmarks/tables_tiny.py                       # all; a quarter of an hour on two cores
    python benchmarks/tables_tiny.py dtrn_table4 man_table2 --folder /tmp/tiny

Each part is a `seqmtl table` of its own: one seed, one epoch of two batches, a few thousand rows. Prints a line for each, and ends
with a status other than 0 if any run of any part is missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seqmtl.shipped import conf_directory
from seqmtl.tables.spec import read_table, table_names

SMALL = ("seeds=1", "trainer.max_epochs=1", "trainer.max_batches=2", "trainer.threads=1", "launcher=parallel")
SIZES = {
    "aliccp_sim": ("dataset.prepare.simulate.train_rows=4000", "dataset.prepare.simulate.test_rows=2000"),
    "tenrec_sim": ("dataset.prepare.simulate.rows=6000",),
    "ecommerce_sim": ("dataset.prepare.simulate.rows=6000",),
    "finance_sim": ("dataset.prepare.simulate.rows=12000",),
    "finance_scene1": ("dataset.prepare.simulate.rows=12000",),
    "finance_scene2": ("dataset.prepare.simulate.rows=12000",),
}


def main() -> int:
    """Make them; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="*", help="names; default: all")
    parser.add_argument("--folder", type=Path, help="data and outputs go here; default: a temporary one")
    arguments = parser.parse_args()
    folders = [conf_directory()]
    with tempfile.TemporaryDirectory() as temporary:
        place = (arguments.folder or Path(temporary)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        print("| table | part | dataset | runs | seconds | |\n|---|---|---|---|---|---|", flush=True)
        bad = sum(_make(name, place, folders) for name in arguments.tables or table_names(folders))
    return 1 if bad else 0


def _make(name: str, place: Path, folders: list[Path]) -> int:
    """All parts of a table; how many are not whole."""
    bad = 0
    for part in read_table(name, folders).parts:
        dataset = part.datasets[0]
        words = ["table", name, f"part={part.name}", *SIZES[dataset], *SMALL]
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "seqmtl.cli", *words], cwd=place, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        said = "whole" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        print(f"| {name} | {part.name} | {dataset} | {len(part.rows)} | {seconds:.0f} | {said} |", flush=True)
        bad += done.returncode != 0
    return bad


if __name__ == "__main__":
    sys.exit(main())
