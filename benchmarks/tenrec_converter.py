"""How fast Tenrec's converter is, and how its memory grows with the file: simulated raw files of several sizes, each converted in a
process of its own.

    python benchmarks/tenrec_converter.py --rows 2000000 5000000 20000000
    python benchmarks/tenrec_converter.py --raw data/raw/tenrec              # the real file

Unusual: the memory is the most that the child ever held (VmHWM), Python, Polars and Arrow included. Users and items grow with
the rows as those of the real file would (118 rows of a user, 143 of an item).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def convert(raw: Path, out: Path) -> dict[str, float]:
    """Converts and says rows, seconds and the most memory (GiB); run in a child."""
    from seqmtl.data.meta import read_meta
    from seqmtl.prepare.tenrec import prepare

    start = time.perf_counter()
    prepare(raw, out)
    seconds = time.perf_counter() - start
    meta = read_meta(out)
    rows = sum(meta.rows.values()) + sum(meta.dropped.values())
    # Not ru_maxrss: that is never below the parent's, as it survives exec.
    peak = next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")) / 2**20
    return {"rows": rows, "seconds": seconds, "peak": peak, "users": meta.fields["user_id"], "items": meta.fields["item_id"]}


def measure(raw: Path, directory: Path) -> dict[str, float]:
    """`convert` in a process of its own."""
    out = directory / "out"
    command = [sys.executable, __file__, "--child", str(raw), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(out)
    return {str(k): float(v) for k, v in json.loads(done.stdout.splitlines()[-1]).items()}


def simulate(rows: int, raw: Path) -> None:
    from seqmtl.simulate.tenrec import simulate as write

    raw.mkdir()
    write(raw, rows=rows, rates="paper", rows_per_user=118, rows_per_item=143)
    for oracle in raw.glob("oracle_*"):  # the real file has none
        oracle.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 5_000_000], help="sizes of the simulated files")
    parser.add_argument("--raw", type=Path, help="a directory with QK-video.csv instead")
    parser.add_argument("--temporary", type=Path, help="where the files go; by default where Python puts them")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(convert(*args.child)))
        return
    print("      rows     users     items   seconds    rows/s   most memory")
    found = []
    for rows in [0] if args.raw else args.rows:
        with tempfile.TemporaryDirectory(dir=args.temporary) as temporary:
            raw = args.raw
            if raw is None:
                raw = Path(temporary) / "raw"
                simulate(rows, raw)
            found.append(one := measure(raw, Path(temporary)))
        numbers = f"{one['rows']:10,.0f}{one['users']:10,.0f}{one['items']:10,.0f}{one['seconds']:10.1f}"
        print(f"{numbers}{one['rows'] / one['seconds']:10,.0f}{one['peak']:10.2f} GiB", flush=True)
    if len(found) > 1:
        first, last = found[-2:]
        slope = (last["peak"] - first["peak"]) / (last["rows"] - first["rows"])
        print(f"{slope * 1e6 * 1024:.1f} MiB for each further million rows; the 117.5 million rows of the real file would need"
              f" about {last['peak'] + slope * (117.5e6 - last['rows']):.1f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
