"""`python -m seqmtl.launch.ranks --ranks=N RUN_DIR --sweep=…`: the ranks of one job on this node, through torchrun.

Unusual: on one node no socket listens but gloo's and NCCL's own, on loopback. torchrun's rendezvous and the ranks' store are files,
where torchrun's standalone mode opens two TCP stores to the whole network. And it dies with its parent; of itself torchrun would
live on with all its ranks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from seqmtl.launch.command import BUSY
from seqmtl.process import alive, die_with_parent, for_children

PLACE = "seqmtl-ranks-"  # of directories in the temporary folder: seqmtl-ranks-<pid>-<random>


def main() -> None:
    """The process that watches the ranks of one node."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m seqmtl.launch.ranks", description="run the ranks of a job on this node")
    parser.add_argument("--ranks", type=int, required=True, help="processes on this node")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rendezvous", default="", help="host:port of the first node")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--sweep", default="")
    parser.add_argument("--settings", default="")
    arguments = parser.parse_args()
    os.environ.update(for_children())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun would, with a warning
    module = ["-m", "seqmtl.job", str(arguments.run_dir), "--sweep", arguments.sweep, f"--settings={arguments.settings}"]
    size = [f"--nnodes={arguments.nodes}", f"--nproc_per_node={arguments.ranks}", "--rdzv-backend=c10d"]
    if arguments.nodes > 1:
        # One id for all nodes: they start the same run directory. torchrun names a folder after it: no slashes.
        job = f"{arguments.run_dir.parent.name}-{arguments.run_dir.name}"
        _torchrun([*size, f"--rdzv-endpoint={arguments.rendezvous}", f"--rdzv-id={job}", *module])
        return
    with _place() as place:
        os.environ["SEQMTL_STORE"] = f"{place}/store"
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # the agent would listen on all interfaces
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        _torchrun([*size, f"--rdzv-endpoint={place}/rendezvous", "--rdzv-conf=store_type=file", "--rdzv-id=one", *module])


def _place() -> tempfile.TemporaryDirectory[str]:
    """A folder on a local disk for what the ranks meet in; those that killed processes left behind are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PLACE}*"):
        pid = left.name.removeprefix(PLACE).partition("-")[0]
        if pid.isdigit() and not alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{PLACE}{os.getpid()}-")


def _torchrun(arguments: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(arguments)
    except ChildFailedError as e:
        if any(failure.exitcode == BUSY for failure in e.failures.values()):
            sys.exit(BUSY)  # another process runs the job: no failure of this one
        raise


if __name__ == "__main__":
    main()
