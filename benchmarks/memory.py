"""Resident memory of a command while it runs: `python benchmarks/memory.py seqmtl model=… dataset.storage=disk`.

Samples the command's own memory (RssAnon, without pages of files) twice a second, over all its processes, and prints how it went:
one line for each twentieth of the time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def resident(pid: int) -> float:
    """MB of a process and its children."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = next((int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon")), 0.0)
    return own + sum(resident(int(child)) for child in children)


def main() -> int:
    process = subprocess.Popen(sys.argv[1:])
    started, samples = time.monotonic(), []
    while process.poll() is None:
        samples.append((time.monotonic() - started, resident(process.pid)))
        time.sleep(0.5)
    lines = min(20, len(samples))
    for i in range(lines):
        part = samples[len(samples) * i // lines : len(samples) * (i + 1) // lines]
        values = [mb for _, mb in part]
        print(f"{part[0][0]:7.0f} s - {part[-1][0]:5.0f} s   {min(values):6.0f} - {max(values):6.0f} MB")
    print(f"peak {max(mb for _, mb in samples):.0f} MB in {samples[-1][0]:.0f} s; exit status {process.returncode}")
    return process.returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main())
