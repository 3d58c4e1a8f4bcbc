"""MLflow: one run per job, also when it was resumed.

Unusual: points are kept in memory and sent in batches (a single log_metric takes 2-10 ms on sqlite), and before every checkpoint,
so that what is lost in a crash is what a resumed run computes again. Points that the run has already are not sent twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqmtl.errors import SeqmtlError

MAX_BATCH = 1000  # metrics in one call, MLflow's limit
MAX_PARAM = 500  # characters of a value that every backend takes


def tracking_uri(output_dir: Path) -> str:
    """MLFLOW_TRACKING_URI, or the sqlite database in `output_dir`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output_dir.absolute()}/mlflow.db"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _has_state(run_dir: Path) -> bool:
    """Whether there is a state to go on from: of the last stage, or of an earlier one, which has a folder of its own."""
    of_stages = [path for path in run_dir.glob("*/last*.ckpt") if not path.parent.name.startswith("attempt-")]
    return bool(of_stages) or any(run_dir.glob("last*.ckpt"))  # last.previous.ckpt, and what was damaged and set aside


def git_commit() -> str:
    """The commit of the checkout that the code runs from (-dirty where it was changed), or the package's version."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        # An installed package may lie inside a repository of somebody else's.
        if (root / ".git").exists():
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    from seqmtl import __version__

    return f"v{__version__}"


@contextlib.contextmanager
def _one_at_a_time(output_dir: Path) -> Iterator[None]:
    """Processes that meet a database that is not there yet would all create its tables, and all but one fail."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".mlflow.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _create_database(output_dir: Path) -> None:
    """Make the default database under a temporary name: MLflow takes seconds, and one killed halfway would never open again."""
    path = output_dir.absolute() / "mlflow.db"
    if path.exists():
        return
    from mlflow import MlflowClient

    for left in output_dir.glob(".mlflow.db.*"):
        left.unlink()
    temporary = path.with_name(f".mlflow.db.{os.getpid()}")
    MlflowClient(f"sqlite:///{temporary}").search_experiments()
    temporary.replace(path)


class Tracker:
    """The MLflow run of one job.

    Args:
        output_dir: holds the default database, and artifacts beside it.
        run_dir: gets `mlflow_run_id`, a cache: a run is found by its tags config_hash and seed.
        config: resolved; logged as params and as the artifact config.yaml.
        tags: model, loss, step, dataset, seed, config_hash, git_commit, sweep.

    Raises:
        SeqmtlError: the database is locked, or of another MLflow's schema, or the server does not answer.
    """

    def __init__(self, output_dir: Path, run_dir: Path, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self.uri = tracking_uri(output_dir)
        self.pending: list[Any] = []
        self.latest: dict[str, int] = {}
        with self._in_words():
            # MLflow's own word on each of the fifty tables that it makes.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            from mlflow import MlflowClient

            with _one_at_a_time(output_dir):
                if not os.environ.get("MLFLOW_TRACKING_URI"):
                    _create_database(output_dir)
                self.client = MlflowClient(self.uri)
                experiment = self._experiment(tags["dataset"], output_dir)
                self.run_id, resumed = self._run(experiment, run_dir, config, tags)
            if resumed:
                self._remember()
            else:
                self.client.log_artifact(self.run_id, str(run_dir / "config.yaml"))

    def _experiment(self, name: str, output_dir: Path) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                raise SeqmtlError(
                    f"the MLflow experiment '{name}' was deleted; bring it back"
                    f" (mlflow experiments restore --experiment-id {found.experiment_id}) or take another output_dir"
                )
            return str(found.experiment_id)
        place = None if os.environ.get("MLFLOW_TRACKING_URI") else (output_dir.absolute() / "mlartifacts" / name).as_uri()
        return str(self.client.create_experiment(name, artifact_location=place))

    def _run(self, experiment: str, run_dir: Path, config: Mapping[str, Any], tags: Mapping[str, str]) -> tuple[str, bool]:
        """Find the run that this job began, or begin one.

        The caller holds the run directory, so a run of this directory that still seems to run is ours or a dead process's.
        """
        tags = {**tags, "run_dir": f"{socket.gethostname()}:{run_dir.absolute()}"}
        same = " and ".join(f"tags.{key} = '{tags[key]}'" for key in ("config_hash", "seed", "run_dir"))
        found = self.client.search_runs([experiment], same, order_by=["attributes.start_time DESC"])
        if found and (_has_state(run_dir) or any(run_dir.glob("best.*.txt"))):
            # Cut off and going on, be it after its run was ended and before the job was.
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            (run_dir / "mlflow_run_id").write_text(found[0].info.run_id)
            return found[0].info.run_id, True
        for run in found:
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, "KILLED")
        step = [tags["step"]] if tags.get("step", "plain") != "plain" else []
        name = "/".join([tags["model"], tags["loss"], *step, f"seed={tags['seed']}"])
        run = self.client.create_run(experiment, run_name=name, tags=dict(tags))
        self._log_params(run.info.run_id, config)
        (run_dir / "mlflow_run_id").write_text(run.info.run_id)
        return run.info.run_id, False

    def _log_params(self, run_id: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = flatten(config)
        flat.pop("dataset.about", None)  # a paragraph for people
        params = [Param(key, str(value)[:MAX_PARAM]) for key, value in flat.items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])

    def _remember(self) -> None:
        """The last step of each metric that the resumed run has."""
        for key in self.client.get_run(self.run_id).data.metrics:
            self.latest[key] = max(m.step for m in self.client.get_metric_history(self.run_id, key))

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Keep the points that are new; what is undefined has no point."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for key, value in values.items():
            if value is not None and step > self.latest.get(key, -1):
                self.latest[key] = step
                self.pending.append(Metric(key, float(value), now, step))
        if len(self.pending) >= MAX_BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what is kept."""
        with self._in_words():
            while self.pending:
                self.client.log_batch(self.run_id, metrics=self.pending[:MAX_BATCH])
                del self.pending[:MAX_BATCH]

    def end(self, status: str) -> None:
        """FINISHED or FAILED."""
        self.flush()
        with self._in_words():
            self.client.set_terminated(self.run_id, status)

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except SeqmtlError:
            raise
        except Exception as e:  # MLflow, SQLAlchemy, sqlite3 and requests each have kinds of their own
            if _interrupted(e):
                raise KeyboardInterrupt from e
            raise SeqmtlError(_in_words(e, self.uri)) from e


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what broke the call: SQLAlchemy reports a transaction that it could not roll back instead."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_words(error: Exception, uri: str) -> str:
    text = str(error)
    where = f"MLflow at {uri.partition('?')[0]}" if "@" not in uri else "MLflow"
    if "locked" in text:
        return f"{where} is locked by another process; end that process (an open database browser?) and run the same command again"
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"{where} was made by another version of MLflow; use that version, or upgrade the database"
            f" (mlflow db upgrade {uri}), or choose another output_dir"
        )
    return f"{where} fails ({text.splitlines()[0] if text else type(error).__name__}); see MLFLOW_TRACKING_URI and output_dir"
