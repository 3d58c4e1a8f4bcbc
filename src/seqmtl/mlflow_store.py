"""MLflow's side: a server, a database, or the default sqlite database; its errors in words, of two kinds.

Unusual: what may pass by itself (a server that is away, a locked database) is `Away`, and nobody's training ends by it. What only
people can mend (a refused password, another version's schema) is told as the SeqmtlError that it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from seqmtl.disk import one_at_a_time
from seqmtl.errors import SeqmtlError
from seqmtl.redact import hide

MAX_PARAM = 500  # characters of a value that every backend takes

# A training shall not stand still for MLflow's own two minutes times eight; whoever set another value keeps it.
SHORT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PGCONNECT_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
REFUSED = {"CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE"}
REFUSALS = {401: "it does not know this user", 403: "it does not let this user in", 404: "no MLflow is there"}
# Texts of sqlite and PostgreSQL that no waiting changes.
HOPELESS = ("password authentication failed", "no password supplied", "unable to open database file", "not a database", "readonly")


class Away(SeqmtlError):
    """MLflow takes nothing at the moment."""


def tracking_uri(output_dir: Path) -> str:
    """MLFLOW_TRACKING_URI, or the sqlite database in `output_dir`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output_dir.absolute()}/mlflow.db"


class Store:
    """Where MLflow keeps its runs; connected when it is first needed.

    Args:
        output_dir: holds the default database, and artifacts beside it wherever no server keeps them.

    Raises (each method):
        Away: later it may work.
        SeqmtlError: it will not, unless somebody does what the words say.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.uri = tracking_uri(output_dir)
        self.name = hide(self.uri)
        self.made: Any = None

    @property
    def client(self) -> Any:
        if self.made is None:
            with self.in_words():
                self.made = self._connect()
        return self.made

    def _connect(self) -> Any:
        for name, value in SHORT.items():
            os.environ.setdefault(name, value)
        # MLflow's own word on each of the fifty tables that it makes, and on errors that are told here.
        for name, level in (("alembic", logging.WARNING), ("mlflow", logging.ERROR), ("urllib3.connectionpool", logging.ERROR)):
            logging.getLogger(name).setLevel(level)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # whole tracebacks, with the address in them
        from mlflow import MlflowClient

        if self._remote:
            _ask(self.uri)
            return MlflowClient(self.uri)
        # Processes that meet a database that is not there yet would all create its tables, and all but one fail.
        with one_at_a_time(self.output_dir / ".mlflow.lock"):
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                _create_database(self.output_dir)
            if not self.uri.startswith("sqlite:"):
                _knock(self.uri)
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)  # makes the tables
            return client

    @property
    def _remote(self) -> bool:
        return urlsplit(self.uri).scheme in ("http", "https")

    def find(self, header: Mapping[str, Any]) -> str:
        """The id of the run that was begun with this header, or empty."""
        with self.in_words():
            experiment = self._experiment(header["experiment"])
            found = self.client.search_runs([experiment], f"tags.journal = '{header['key']}'")
            return found[0].info.run_id if found else ""

    def create(self, header: Mapping[str, Any]) -> str:
        """Begin a run; its id."""
        with self.in_words():
            experiment = self._experiment(header["experiment"])
            tags = {**header["tags"], "journal": header["key"]}
            run = self.client.create_run(experiment, start_time=header["start"], run_name=header["name"], tags=tags)
            return run.info.run_id

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = None if self._remote else (self.output_dir.absolute() / "mlartifacts" / name).as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=place))
            except Exception:
                found = self.client.get_experiment_by_name(name)  # another job was first
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise SeqmtlError(
                f"the MLflow experiment '{name}' was deleted; bring it back"
                f" (mlflow experiments restore --experiment-id {found.experiment_id}) or take another output_dir"
            )
        return str(found.experiment_id)

    def describe(self, run_id: str, header: Mapping[str, Any]) -> None:
        """Params and config.yaml; may be repeated."""
        from mlflow.entities import Param

        params = [Param(key, value[:MAX_PARAM]) for key, value in header["params"].items()]
        with self.in_words():
            for start in range(0, len(params), 100):
                self.client.log_batch(run_id, params=params[start : start + 100])
            self.client.log_text(run_id, header["config"], "config.yaml")

    def put_files(self, experiment: str, name: str, tags: Mapping[str, str], content: bytes, files: Iterable[Path]) -> None:
        """A run that is nothing but files; one of the same content is not made twice."""
        checksum = hashlib.sha256(content).hexdigest()
        with self.in_words():
            place = self._experiment(experiment)
            if self.client.search_runs([place], f"tags.content = '{checksum}' and attributes.status = 'FINISHED'"):
                return
            run_id = self.client.create_run(place, run_name=name, tags={**tags, "content": checksum}).info.run_id
            for path in files:
                self.client.log_artifact(run_id, str(path))
            self.client.set_terminated(run_id)

    def has(self, run_id: str) -> bool:
        """Whether the run is there, and was not deleted."""
        from mlflow.exceptions import MlflowException

        with self.in_words():
            try:
                return self.client.get_run(run_id).info.lifecycle_stage == "active"
            except MlflowException as e:
                if e.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise

    def last_steps(self, run_id: str, names: Iterable[str]) -> dict[str, int]:
        """The last step of each metric that the run has."""
        with self.in_words():
            there = self.client.get_run(run_id).data.metrics
            return {name: max(m.step for m in self.client.get_metric_history(run_id, name)) for name in names if name in there}

    def log(self, run_id: str, points: Iterable[Mapping[str, Any]]) -> None:
        """Add points, a thousand at most. The same point twice is one: its time is part of what MLflow knows it by."""
        from mlflow.entities import Metric

        with self.in_words():
            self.client.log_batch(run_id, [Metric(p["metric"], p["value"], p["time"], p["step"]) for p in points])

    def set_status(self, run_id: str, status: str, at: int) -> None:
        """RUNNING, or an end: FINISHED, FAILED, KILLED."""
        with self.in_words():
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status, end_time=at)

    @contextlib.contextmanager
    def in_words(self) -> Iterator[None]:
        """Exceptions of MLflow, SQLAlchemy, sqlite3 and requests as ours; without theirs, in which the password may stand."""
        try:
            yield
        except SeqmtlError:
            raise
        except Exception as e:
            if _interrupted(e):
                raise KeyboardInterrupt from None
            raise self._said(e) from None

    def _said(self, error: Exception) -> SeqmtlError:
        text = hide(str(error))
        if "out-of-date database schema" in text or "Can't locate revision" in text:
            return SeqmtlError(
                f"MLflow at {self.name} was made by another version of MLflow; use that version, or upgrade the database"
                f" (mlflow db upgrade {self.name}), or choose another output_dir"
            )
        if isinstance(error, ImportError):
            return SeqmtlError(f"MLflow at {self.name} needs a package that is missing ({text}); install it")
        short = re.search(r"\[Errno -?\d+\] [\w ]+|timed out", text)
        reason = short.group() if short else next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        if _hopeless(error, text):
            return SeqmtlError(f"MLflow at {self.name} fails ({reason}); see MLFLOW_TRACKING_URI and output_dir")
        if "locked" in text:
            return Away(f"MLflow at {self.name} is locked by another process (an open database browser?)")
        return Away(f"MLflow at {self.name} cannot be reached ({reason})")


def _hopeless(error: Exception, text: str) -> bool:
    from sqlalchemy.exc import ArgumentError

    code = getattr(error, "error_code", None)
    return code in REFUSED or isinstance(error, ArgumentError | ValueError) or any(word in text for word in HOPELESS)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what broke the call: SQLAlchemy reports a transaction that it could not roll back instead."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _ask(uri: str) -> None:
    """One request, for its HTTP status: of a proxy's refusal MLflow tells no more than that it does not understand it."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if not urlsplit(uri).hostname:
        raise ValueError("the address names no host")
    creds = get_default_host_creds(uri)
    status = http_request(creds, "/api/2.0/mlflow/experiments/search", "POST", json={"max_results": 1}).status_code
    if status in REFUSALS:
        raise ValueError(f"{REFUSALS[status]}: HTTP status {status}")


def _knock(uri: str) -> None:
    """Fail at once where a database does not answer: MLflow itself would try ten times, in a hundred seconds."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    engine.connect().close()


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
