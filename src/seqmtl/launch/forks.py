"""`python -m seqmtl.launch.forks`: imports once what jobs need, then forks a process for each job that it is told of.

Told on the standard input, a JSON object a line: {"id", "words", "environment", "console"}, where `words` are those behind
`python -m seqmtl.job`. It answers on the standard output {"id", "pid"}, and {"id", "status"} when that process is gone.

Unusual: a fork is safe here because nothing has run yet. Modules are imported and that is all: no thread of Python's was started,
no tensor made, no GPU touched; a job on a GPU is never started so. The kernel ends a job when this process dies, and this one when
the sweep does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any

from seqmtl.process import PARENT, die_with_parent

JOB = "seqmtl.job"
NEEDED = ("torch", "lightning.pytorch", "torchmetrics", "mlflow", "polars", JOB, "seqmtl.stage", "seqmtl.boost")
LOOK_SECONDS = 0.05

Request = Mapping[str, Any]  # with "parent", the process that forks


def main() -> int:
    """Serve until the standard input is closed; in a forked process, be the job."""
    die_with_parent()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # a thread of its own
    for module in NEEDED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is shared stays shared: a collection would write into every object
    request = _serve()
    return 0 if request is None else _become(request)


def _serve() -> Request | None:
    """None when there is nothing more to do; in each forked process, what it is to do."""
    running: dict[int, int] = {}
    text = b""
    while True:
        if select.select([0], [], [], LOOK_SECONDS)[0]:
            some = os.read(0, 1 << 16)
            if not some:
                return None
            *lines, text = (text + some).split(b"\n")
            for line in lines:
                request = json.loads(line) | {"parent": os.getpid()}
                pid = os.fork()
                if pid == 0:
                    return request
                running[pid] = request["id"]
                _answer(id=request["id"], pid=pid)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _answer(id=running.pop(pid), status=os.waitstatus_to_exitcode(status))


def _answer(**content: int) -> None:
    os.write(1, json.dumps(content).encode() + b"\n")


def _become(request: Request) -> int:
    """The process of a job: a group, an environment and files of its own."""
    import torch
    from setproctitle import setproctitle

    os.setpgid(0, 0)
    sys.argv = [JOB, *request["words"]]
    setproctitle(" ".join([sys.executable, "-m", *sys.argv]))  # before the environment is changed: it writes over the old one
    console = os.open(request["console"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for mine, its in ((nothing, 0), (console, 1), (console, 2)):
        os.dup2(mine, its)
    os.environ.clear()
    os.environ.update({**request["environment"], PARENT: str(request["parent"])})
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))  # the environment was read when torch was imported
    status: int = sys.modules[JOB].main()
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the sweep, which ends this
    sys.exit(main())
