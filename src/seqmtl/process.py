"""What a process asks of the kernel and of the allocator."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Any, NoReturn

PARENT = "SEQMTL_PARENT"  # the environment tells a child whose it is


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies: torchrun's ranks have a session of their own."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit("the process that started this one is gone")  # before the kernel was asked


def end(number: int, frame: Any) -> NoReturn:
    """A signal handler: leave, with the exit status that a shell gives to that signal, and tidy up on the way."""
    raise SystemExit(128 + number)


def for_children() -> dict[str, str]:
    """What to add to a child's environment: whose it is, and that modules are not looked for in the working directory."""
    return {PARENT: str(os.getpid()), "PYTHONSAFEPATH": "1"}


def alive(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


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
