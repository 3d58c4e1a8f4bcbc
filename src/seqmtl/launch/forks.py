"""`python -m seqmtl.launch.forks`: imports once what jobs need, then forks a process for each job that it is told of.

Told on the standard input, a JSON object a line: {"id", "words", "environment", "console"}, where `words` are those behind
`python -m seqmtl.job`. It answers on the standard output {"id", "pid"}, and {"id", "status"} when that process is gone.

Unusual: a process that has threads is forked. A fork copies none of them, and what another one held at that moment stays locked in
the child. It does no harm with those that the imports leave, and imports are all that happens here:

- None of Python's: this process refuses to serve if there is one.
- OpenBLAS, once in numpy and once in scipy, begins one for each further core of OMP_NUM_THREADS. Its handler (pthread_atfork) ends
  them before the fork; they begin anew when a product needs them. Only the OpenBLAS of numpy 2.3.4 is known to hang there, with two
  threads or more, in LAPACK's getrf.
- jemalloc, in pyarrow, which pandas imports, has one that gives memory back. Its handlers hold its locks over the fork, and the
  child does without that thread. glibc's malloc does the same with its locks.
- polars would begin some that nobody takes care of, and its manual warns of a fork. MLflow imports it wherever it is installed, and
  does without it elsewhere: here it is hidden from MLflow. A job that needs polars imports it after the fork.

It would do harm to compute anything here first: libgomp's threads, with which torch computes, are not begun anew in a child, which
then waits for them for ever. A CUDA context does not outlast a fork either: a job on a GPU is never started so.

The kernel ends a job when this process dies, and this one when the sweep does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from seqmtl.process import PARENT, die_with_parent

JOB = "seqmtl.job"
NEEDED = ("torch", "lightning.pytorch", "torchmetrics", "mlflow", JOB, "seqmtl.stage", "seqmtl.boost")
HIDDEN = "polars"
LOOK_SECONDS = 0.05

Request = Mapping[str, Any]  # with "parent", the process that forks


def main() -> int:
    """Serve until the standard input is closed; in a forked process, be the job."""
    die_with_parent()
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints when it is imported is no answer
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # a thread of its own
    with _hidden(HIDDEN):
        for module in NEEDED:
            try:
                importlib.import_module(module)
            except Exception as e:
                sys.exit(f"seqmtl: jobs are not forked: the import of {module} failed: {type(e).__name__}: {e}")
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        sys.exit(f"seqmtl: jobs are not forked: a library started a thread when it was imported: {names}")
    gc.collect()
    gc.freeze()  # what is shared stays shared: a collection would write into every object
    request = _serve(answers)
    if request is None:
        return 0
    os.close(answers)  # the sweep hears the end of them when the forking process is gone
    return _become(request)


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Whoever tries to import it is told that it is not installed."""
    sys.modules[module] = None  # type: ignore[assignment]  # the import system's own sign
    try:
        yield
    finally:
        del sys.modules[module]


def _serve(answers: int) -> Request | None:
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
                pid = _fork()
                if pid == 0:
                    return request
                running[pid] = request["id"]
                _answer(answers, id=request["id"], pid=pid)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            _answer(answers, id=running.pop(pid), status=os.waitstatus_to_exitcode(status))


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warns of every thread of the process; why those that are here do no harm stands above.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        pid = os.fork()
    with contextlib.suppress(OSError):  # the other of the two did it first, or the child is gone
        os.setpgid(pid, pid)  # by both (0: oneself): whoever is told of the process may signal its group at once
    return pid


def _answer(answers: int, **content: int) -> None:
    os.write(answers, json.dumps(content).encode() + b"\n")


def _become(request: Request) -> int:
    """The process of a job: an environment and files of its own."""
    import torch
    from setproctitle import setproctitle

    sys.argv = [JOB, *request["words"]]
    setproctitle(" ".join([sys.executable, "-m", *sys.argv]))  # before the environment is changed: it writes over the old one
    console = os.open(request["console"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for mine, its in ((nothing, 0), (console, 1), (console, 2)):
        os.dup2(mine, its)
    os.environ.clear()
    os.environ.update({**request["environment"], PARENT: str(request["parent"])})
    if threads := os.environ.get("OMP_NUM_THREADS"):
        # The environment was read when torch was imported. "4,2": 4, and 2 in each of those where they nest.
        torch.set_num_threads(int(threads.split(",")[0]))
    status: int = sys.modules[JOB].main()
    return status


if __name__ == "__main__":
    sys.exit(main())
