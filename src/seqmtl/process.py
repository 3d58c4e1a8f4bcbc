"""What a process asks of the kernel and of the allocator."""

from __future__ import annotations

import contextlib
import ctypes
import signal


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies: torchrun's ranks have a session of their own."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def keep_memory() -> None:
    """Ask the allocator (glibc) to keep what is freed.

    By default it gives tensors of some megabytes back to the kernel at once, and a training step asks for the same again: each of
    their pages is found and zeroed anew, which costs up to a third of a step on a CPU. The price: what was used once is held to
    the end.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)
