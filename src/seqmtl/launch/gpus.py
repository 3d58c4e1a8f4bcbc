"""GPUs of this machine, leased by file locks: two sweeps of one user never meet on one, and the kernel frees a dead one's."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from seqmtl.plural import plural

log = logging.getLogger("seqmtl")


def visible_gpus() -> tuple[str, ...]:
    """UUIDs of the GPUs that CUDA_VISIBLE_DEVICES leaves, all where it is not set; () where there is no driver."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        found = []
    if asked is None:
        return tuple(found)
    words = [word.strip() for word in asked.split(",") if word.strip()]
    return tuple(found[int(word)] if word.isdigit() and int(word) < len(found) else word for word in words)


@dataclass
class Lease:
    """GPUs that are held until `release`."""

    gpus: tuple[str, ...] = ()
    locks: ExitStack = field(default_factory=ExitStack)

    def release(self) -> None:
        self.locks.close()

    def environment(self) -> dict[str, str]:
        """What a process must see so that it uses these and no other."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}


class Gpus:
    """The GPUs of this machine.

    Args:
        jobs_per_gpu: how many jobs may share one.
        gpus: None: all that are visible.
    """

    def __init__(self, jobs_per_gpu: int = 1, gpus: Sequence[str] | None = None, folder: Path | None = None) -> None:
        self.jobs_per_gpu = jobs_per_gpu
        self.gpus = visible_gpus() if gpus is None else tuple(gpus)
        self.folder = folder or Path(tempfile.gettempdir()) / f"seqmtl-gpus-{os.getuid()}"

    def take(self, count: int) -> Lease | None:
        """Lease `count` different GPUs, those with the fewest jobs first; None where not enough are free now."""
        lease = Lease()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for slot in range(self.jobs_per_gpu):
            for gpu in self.gpus:
                if len(lease.gpus) < count and gpu not in lease.gpus and self._hold(gpu, slot, lease.locks):
                    lease.gpus += (gpu,)
        if len(lease.gpus) == count:
            return lease
        lease.release()
        return None

    def wait(self, count: int) -> Lease:
        """Lease `count` GPUs as soon as they are free; nothing where this machine has not so many: what uses them will say so."""
        if count > len(self.gpus):
            return Lease()
        told = False
        while (lease := self.take(count)) is None:
            if not told:
                log.info("waiting for %s that other jobs use", plural(count, "GPU"))
                told = True
            time.sleep(1.0)
        return lease

    def _hold(self, gpu: str, slot: int, locks: ExitStack) -> bool:
        """One of the places of a GPU, beside those that share it too; the whole of it where it is not shared."""
        alone = self.jobs_per_gpu == 1
        with ExitStack() as opened:
            for name, kind in ((f"{gpu}", fcntl.LOCK_EX if alone else fcntl.LOCK_SH), (f"{gpu}.{slot}", fcntl.LOCK_EX)):
                file = opened.enter_context((self.folder / name.replace("/", "-")).open("a"))
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
            locks.push(opened.pop_all())
        return True
