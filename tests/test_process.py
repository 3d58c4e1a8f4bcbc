"""What a process asks of the allocator."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import resource
import numpy as np
from seqmtl.process import keep_memory
if {keep}:
    keep_memory()
def work():
    for _ in range(8):
        np.ones(8_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def found(keep: bool) -> int:
    """How many pages the kernel has to find for what was freed a moment before, 64 MB eight times."""
    done = subprocess.run([sys.executable, "-c", PAGES.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    default = found(keep=False)
    if default < 1000:
        pytest.skip("this allocator keeps memory by itself")
    assert found(keep=True) < default / 20
