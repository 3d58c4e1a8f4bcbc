"""`seqmtl sync [output_dir]`: send to MLflow what waits in the run directories."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from seqmtl.delivery import Delivery
from seqmtl.errors import SeqmtlError
from seqmtl.journal import Journal
from seqmtl.mlflow_store import Store
from seqmtl.plural import plural
from seqmtl.runs import Run

ABOUT = """
Send to MLflow what was kept in the run directories while it was away. A run that is being trained sends its own. Nothing is sent
twice; the exit status is 0 when nothing waits any more. MLFLOW_TRACKING_URI must be what it was in training.
"""


def run(words: list[str]) -> int:
    """The verb; its exit status.

    Raises:
        SeqmtlError: there are no runs.
    """
    parser = argparse.ArgumentParser(prog="seqmtl sync", description=ABOUT)
    parser.add_argument("output_dir", type=Path, nargs="?", default=Path("outputs"), help="default: outputs")
    output_dir = parser.parse_args(words).output_dir
    if not output_dir.is_dir():
        raise SeqmtlError(f"there is no directory {output_dir.absolute()}; seqmtl sync OUTPUT_DIR names another")
    folders = sorted(path.parent for path in output_dir.rglob("mlflow.jsonl"))
    if not folders:
        raise SeqmtlError(f"there are no runs in {output_dir.absolute()}; seqmtl sync OUTPUT_DIR names another directory")
    waiting = [folder for folder in folders if Journal(folder).waits]
    still = send(output_dir, waiting)
    left = f"; {still} still {'waits' if still == 1 else 'wait'}" if still else ""
    print(f"{plural(len(folders), 'run')} in {output_dir.absolute()}: {len(folders) - len(waiting)} had nothing to send{left}")
    return 1 if still else 0


def send(output_dir: Path, folders: Iterable[Path]) -> int:
    """Send these journals, and print what was done; how many still wait."""
    store = Store(output_dir)
    still, told = 0, ""
    for folder in folders:
        place = folder.relative_to(output_dir) if folder.is_relative_to(output_dir) else folder
        try:
            print(f"{place}: sent {plural(_send_one(folder, store), 'point')}", flush=True)
        except SeqmtlError as e:
            still += 1
            if str(e) != told:
                print(f"{place}: {e}", flush=True)
            told = str(e)
    return still


def _send_one(folder: Path, store: Store) -> int:
    begun = Journal(folder).mark().get("server", store.name)
    if begun != store.name:
        raise SeqmtlError(
            f"waits for MLflow at {begun}, but this would go to {store.name}; set MLFLOW_TRACKING_URI as it was in training,"
            f" and give the same output_dir"
        )
    # An earlier attempt lies in the run directory that it was made in.
    with Run(folder.parent if folder.name.startswith("attempt-") else folder).lock("sending to MLflow"):
        return Delivery(folder, store).send()


def send_rest(output_dir: Path, run_dirs: Iterable[Path]) -> str:
    """At the end of a command: try once more for these runs; a line that says how many still wait, empty where none does."""
    waiting = [folder for folder in run_dirs if Journal(folder).waits]
    if not waiting:
        return ""
    still = send(output_dir, waiting)
    if not still:
        return ""
    return f"{still} {'run waits' if still == 1 else 'runs wait'} for MLflow; when it is there: seqmtl sync {output_dir}"
