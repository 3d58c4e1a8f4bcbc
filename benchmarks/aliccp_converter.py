"""How fast `seqmtl prepare dataset=aliccp` is, how much memory it takes, and whether AITM's script makes the same rows.

    python benchmarks/aliccp_converter.py --rows 500000 2000000 8000000           # simulated raw files, of growing size
    python benchmarks/aliccp_converter.py --rows 2000000 --official process_public_dataset.py
    python benchmarks/aliccp_converter.py --raw data/raw/aliccp
    python benchmarks/aliccp_converter.py --raw data/raw/aliccp --bags 109_14 110_14 127_14 150_14 210       # without and with

The script is that of the AITM authors (https://github.com/xidongbo/AITM, process_public_dataset.py); it needs NumPy and joblib,
which seqmtl brings. It is run as it is, in a temporary directory, on the same raw files right after ours;
then every row of its three files is compared with ours: the labels must be equal, and so must the ids but for their numbers,
which the script draws anew each time.

Each converter is a process of its own: wall-clock time from its start to its end, and its largest resident memory. Rows are those
of the training and the test skeleton together.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from seqmtl.data.meta import read_meta
from seqmtl.simulate.aliccp import simulate

OURS = """
import sys
from pathlib import Path
from seqmtl.prepare.aliccp import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), bags=sys.argv[3:])
"""
PARTS = ("train", "test")
THEIRS = {"train": "ctr_cvr.train", "valid": "ctr_cvr.dev", "test": "ctr_cvr.test"}


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    seconds: float
    mebibytes: float


def measured(command: Sequence[str | Path], directory: Path) -> Cost:
    """Runs a command in a directory; exits if it fails.

    Memory is the peak that the kernel notes (VmHWM), looked at ten times a second: `ru_maxrss` of a child is never below that of
    its parent, as it survives exec.
    """
    start, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([str(word) for word in command], cwd=directory, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        with contextlib.suppress(OSError):
            peak = max([peak, *(int(x.split()[1]) / 1024 for x in status.read_text().splitlines() if x.startswith("VmHWM"))])
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{command[1]} failed (status {process.returncode})")
    return Cost(time.perf_counter() - start, peak)


def ours(raw: Path, place: Path, bags: Sequence[str] = ()) -> Cost:
    name = "with bags" if bags else "ours"
    (place / name).mkdir()
    return measured([sys.executable, "-c", OURS, raw, place / name, *bags], place)


def theirs(raw: Path, script: Path, place: Path) -> Cost:
    """Runs the script with the raw files where it looks for them; what it writes lands beside the links."""
    (place / "data").mkdir()
    for part in PARTS:
        for kind in ("sample_skeleton", "common_features"):
            (place / "data" / f"{kind}_{part}.csv").symlink_to(raw / f"{kind}_{part}.csv")
    return measured([sys.executable, script], place)


def differences(place: Path) -> list[str]:
    """What differs between the rows of the two, but for the numbers of ids."""
    found = []
    for split, name in THEIRS.items():
        their = pl.read_csv(place / "data" / name)
        our = pl.read_parquet(sorted((place / "ours" / split).glob("*.parquet"))).sort("_row")  # their order is that of the file
        if len(their) != len(our):
            found.append(f"{split}: {len(our)} rows, the script has {len(their)}")
            continue
        for column in their.columns:
            a, b = our[column].to_numpy().astype(np.int64), their[column].to_numpy().astype(np.int64)
            pairs = len(np.unique(a << 32 | b))
            same = np.array_equal(a, b) if column in ("click", "purchase") else pairs == len(np.unique(a)) == len(np.unique(b))
            if not (same and np.array_equal(a == 0, b == 0)):
                found.append(f"{split}: column {column} differs")
    return found


def line(name: str, rows: int, cost: Cost) -> str:
    speed = rows / cost.seconds
    return f"{rows:>12,} rows  {name:<12} {cost.seconds:8.1f} s {speed:>10,.0f} rows/s {cost.mebibytes:7.0f} MiB"


def report(raw: Path, script: Path | None, bags: Sequence[str], work: Path) -> bool:
    """Measures one set of raw files and prints a line for each converter; False if the rows differ."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        place = Path(name)
        own = ours(raw, place)
        meta = read_meta(place / "ours")
        rows = sum(meta.rows.values()) + sum(meta.dropped.values())
        print(line("seqmtl", rows, own))
        if bags:
            cost = ours(raw, place, bags)
            stored = sum(bag["items"] for bag in read_meta(place / "with bags").bags.values())
            print(f"{line('with bags', rows, cost)}  {cost.seconds / own.seconds:.2f} times as long; {stored:,} ids in bags")
        if script is None:
            return True
        other = theirs(raw, script, place)
        print(f"{line('AITM script', rows, other)}  {other.seconds / own.seconds:.1f} times as long")
        found = differences(place)
        print("\n".join(found) if found else "              every row of the script is ours, in train, valid and test")
        return not found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--raw", type=Path, help="directory of raw files; else they are simulated")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[2_000_000], help="training rows to simulate, half as many test rows"
    )
    parser.add_argument("--official", type=Path, help="the downloaded process_public_dataset.py of AITM's authors")
    parser.add_argument("--bags", nargs="+", default=[], help="multi-valued fields: measured once more, with these")
    parser.add_argument("--work", type=Path, help="where temporary files go (default: the system's place)")
    args = parser.parse_args(argv)
    script = args.official.resolve() if args.official else None
    if args.raw is not None:
        return 0 if report(args.raw.resolve(), script, args.bags, args.work) else 1
    right = True
    for rows in args.rows:
        raw = Path(tempfile.mkdtemp(dir=args.work))
        try:
            simulate(raw, train_rows=rows, test_rows=rows // 2)
            right &= report(raw, script, args.bags, args.work)
        finally:
            shutil.rmtree(raw)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
