"""One rank of one job: `python -m seqmtl.job RUN_DIR`, under torchrun where there are several ranks.

Everything it needs stands in RUN_DIR/config.yaml: no second composition, no quoting of overrides. It writes what the run directory
holds (runs.py) and, where it was cut off before, goes on in the middle of the epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import math
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seqmtl.build import runner, stage_config, stages
from seqmtl.data.meta import data_version, read_meta
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.launch.command import BUSY
from seqmtl.lock import Held
from seqmtl.process import die_with_parent, end, keep_memory
from seqmtl.progress import job_log
from seqmtl.redact import hide
from seqmtl.runner import Trained
from seqmtl.runs import Run, config_hash, with_settings

if TYPE_CHECKING:
    from seqmtl.data.meta import Meta
    from seqmtl.tracking import Tracker
    from seqmtl.types import Schema

log = logging.getLogger("seqmtl")

RANK = int(os.environ.get("RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))

FITTED = "fitted.json"  # in the folder of an earlier stage: it needs no more training


def read_config(run_dir: Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        SeqmtlError: it is missing or damaged.
    """
    path = run_dir / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise SeqmtlError(f"{path} is missing or damaged; the command that began this run writes it anew") from e
    if not isinstance(config, dict):
        raise SeqmtlError(f"{path} is no config; the command that began this run writes it anew")
    return config


def run(run_dir: Path, sweep: str = "", settings: str = "") -> dict[str, float | None]:
    """Train, select, test once; or read what is there already.

    Args:
        run_dir: holds config.yaml.
        sweep: tag of the MLflow run.
        settings: of the command that this job is of (runs.settings_of), which go before those in config.yaml.

    Returns:
        The contents of metrics.json.

    Raises:
        SeqmtlError: bad input, in words; whatever else goes wrong is raised too. status.json and error.txt tell of both.
    """
    here = Run(run_dir)
    written = read_config(run_dir)
    config = with_settings(written, settings) if settings else written
    with here.lock() if RANK == 0 else contextlib.nullcontext():
        directory, meta = open_dataset(config)
        version = data_version(directory, meta)
        if here.finished(version):
            return here.metrics()
        if RANK == 0:
            here.ready(version)
            (run_dir / "error.txt").unlink(missing_ok=True)
            if config != written:
                here.write_config(config)
            here.write_status("running", data_version=version)
        tracker = None
        with job_log(run_dir, RANK):
            try:
                tracker = _tracker(config, run_dir, sweep) if RANK == 0 else None
                metrics, times = _train_and_test(config, run_dir, tracker, version)
            except (KeyboardInterrupt, SystemExit):
                raise  # status stays "running": the same command goes on from here
            except BaseException as e:
                if _lost_peer(e) and not (run_dir / "error.txt").exists():
                    log.warning("another rank of this job is gone; the same command goes on from the last checkpoint")
                    raise  # as if this one had been killed, too
                _failed(here, e, tracker, version)
                raise
        if tracker is not None:
            here.write_finished(version, times)
            for path in run_dir.rglob("last.previous.ckpt"):
                path.unlink()  # the size of the last one, and nothing is to be gone on with
        return metrics


def _tracker(config: dict[str, Any], run_dir: Path, sweep: str) -> Tracker:
    from seqmtl.tracking import Tracker, git_commit

    names = {group: config[group]["name"] for group in ("model", "loss", "step", "dataset") if group in config}
    tags = names | {"seed": str(config["seed"]), "config_hash": config_hash(config), "git_commit": git_commit()}
    return Tracker(Path(config["output_dir"]), run_dir, config, tags | ({"sweep": sweep} if sweep else {}))


def _refuse_other_data(directory: Path, version: str) -> None:
    """The test rows are read hours after the training rows: they must be of the same dataset."""
    try:
        same = data_version(directory, read_meta(directory)) == version
    except (OSError, SeqmtlError):
        same = False
    if not same:
        raise SeqmtlError(f"the data in {directory} were prepared anew while this run trained on them; run the command again")


def _train_and_test(
    config: dict[str, Any], run_dir: Path, tracker: Tracker | None, version: str
) -> tuple[dict[str, float | None], dict[str, float]]:
    directory, meta = open_dataset(config)
    schema = chosen_schema(config, meta)
    train = runner(config)
    if train is None:
        trained = _stages(config, run_dir, directory, meta, schema, tracker, version)
    else:
        trained = train(config, run_dir, directory, meta, schema, tracker)
        _refuse_other_data(directory, version)
    return _finish(trained, run_dir, directory, tracker, version)


def _stages(
    config: dict[str, Any], run_dir: Path, directory: Path, meta: Meta, schema: Schema, tracker: Tracker | None, version: str
) -> Trained:
    """Fit one stage after the other, each from the best weights of the one before; the last is to be tested."""
    from seqmtl.checkpoint import load_weights
    from seqmtl.stage import Stage, try_parts

    if config["trainer"]["accelerator"] == "cpu":
        keep_memory()
    plan = stages(config)
    for overrides in plan.values():
        # What does not fit in the last stage shall not be told after the first was trained.
        try_parts(stage_config(config, overrides), schema, WORLD_SIZE)
    stage: Stage | None = None
    best: dict[str, Any] | None = None
    metrics: dict[str, float | None] = {}
    times: dict[str, float] = {}
    steps = 0
    for number, (name, overrides) in enumerate(plan.items(), 1):
        last = number == len(plan)
        prefix = "" if last else f"{name}/"
        folder = run_dir if last else run_dir / name
        folder.mkdir(exist_ok=True)
        its_config = stage_config(config, overrides)
        if not last:
            its_config["model"]["selection"] = "sum"  # the next stage takes one set of weights
        if tracker is not None and len(plan) > 1:
            tracker.log({"stage": float(number)}, steps)  # over the optimizer steps of all stages
        fitted = {} if last else _read_fitted(folder)
        if not fitted:
            stage = Stage(its_config, folder, directory, meta, schema, RANK, WORLD_SIZE, tracker, prefix)
            if best is not None:
                stage.start_from(best)
            stage.fit()
            _refuse_other_data(directory, version)
            chosen = {key: value for key, value in stage.selection.state.get("", {}).items() if key in ("epoch", "score")}
            fitted = {"steps": stage.lit.global_step, "times": stage.times, "best": chosen}
        steps += fitted["steps"]
        times |= {prefix + key: value for key, value in fitted["times"].items()}
        if last:
            assert stage is not None
            return Trained(metrics | stage.best_metrics(), stage.test, stage.parameters, times)
        best = load_weights(folder / "best.ckpt")
        metrics |= {prefix + key: value for key, value in best["metrics"].items()}
        if tracker is not None:
            write_file(folder / FITTED, json.dumps(fitted).encode())
        stage = None
        gc.collect()  # Lightning's objects refer to each other, and to the rows in memory
    raise AssertionError("there is always a last stage")


def _read_fitted(folder: Path) -> dict[str, Any]:
    """Steps and times of an earlier stage that is finished and has its weights, {} where it must be fitted."""
    from seqmtl.checkpoint import load_weights

    try:
        fitted = json.loads((folder / FITTED).read_text(encoding="utf-8"))
        load_weights(folder / "best.ckpt", fitted["best"])
    except (OSError, ValueError, TypeError, KeyError, SeqmtlError):
        return {}
    return fitted


def _finish(
    trained: Trained, run_dir: Path, directory: Path, tracker: Tracker | None, version: str
) -> tuple[dict[str, float | None], dict[str, float]]:
    """Test, and write what there is to know."""
    import numpy as np

    started = time.monotonic()
    tested, logits = trained.test()
    times = {"test_seconds": time.monotonic() - started} | dict(trained.times)
    _refuse_other_data(directory, version)
    params = trained.parameters
    sizes = {"params": None, "params_mb": None} if params is None else {"params": float(params), "params_mb": params * 4 / 2**20}
    metrics: dict[str, float | None] = {**trained.metrics, **tested, **sizes}
    metrics = {k: v if v is None or math.isfinite(v) else None for k, v in metrics.items()}  # JSON has no infinity
    if tracker is not None:
        buffer = io.BytesIO()
        np.save(buffer, logits.numpy().astype(np.float32))
        write_file(run_dir / "test_logits.npy", buffer.getbuffer())
        text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_file(run_dir / "metrics.json", text.encode())
        final = {k: v for k, v in metrics.items() if k.startswith(("test/", "params"))}
        # MLflow draws bars, not points, of what has step 0 only.
        tracker.log(final | {"test_seconds": times["test_seconds"]}, step=0)
        tracker.end("FINISHED")
    return metrics, times


def _lost_peer(error: BaseException) -> bool:
    """Whether what failed is the talk between the ranks; a rank that fails of itself has written error.txt before it goes."""
    if WORLD_SIZE == 1:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error)
    )  # gloo has no kind of its own


def _failed(here: Run, error: BaseException, tracker: Tracker | None, version: str) -> None:
    """Say why, once: the first rank that fails knows the cause, the others only that a peer is gone."""
    reason = hide(str(error) if isinstance(error, SeqmtlError) else f"{type(error).__name__}: {error}")
    # Whatever fails here (a full disk, a server that is gone) must not hide the error that is told.
    with contextlib.suppress(OSError, SeqmtlError):
        with (here.path / "error.txt").open("x", encoding="utf-8") as file:
            file.write(hide("".join(traceback.format_exception(error))))
        here.write_status("failed", data_version=version, error=reason)
    if tracker is not None:
        with contextlib.suppress(SeqmtlError):
            tracker.end("FAILED")


def main() -> int:
    """The process of a job in a sweep, or of one rank."""
    die_with_parent()
    signal.signal(signal.SIGTERM, end)
    parser = argparse.ArgumentParser(prog="python -m seqmtl.job", description="run the job whose config.yaml is in RUN_DIR")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--sweep", default="", help="tag of the MLflow run")
    parser.add_argument(
        "--settings", default="", help="JSON of the options that the run's hash leaves out, before those in config.yaml"
    )
    arguments = parser.parse_args()
    try:
        run(arguments.run_dir, arguments.sweep, arguments.settings)
        if WORLD_SIZE > 1:
            from seqmtl.ranks import leave

            leave()
    except SeqmtlError as e:
        print(f"seqmtl: {hide(str(e))}", file=sys.stderr)
        return BUSY if isinstance(e, Held) else 1
    except Exception:
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
