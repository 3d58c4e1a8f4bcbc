"""No user, password or token of MLFLOW_TRACKING_URI in anything that is shown or written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from seqmtl import job, sync
from seqmtl.errors import SeqmtlError
from seqmtl.redact import hide

USER, PASSWORD, TOKEN = "Somebody77", "Pass%2Fword77", "Token-77-abcdef"
PLAIN = (USER, "Pass/word77", PASSWORD, TOKEN)


@pytest.mark.parametrize(
    ("uri", "text", "hidden"),
    [
        ("https://u:p@h:1/x", "GET https://u:p@h:1/x failed", "GET https://***@h:1/x failed"),
        ("https://tok-en-12345@h", "host tok-en-12345 unknown", "host *** unknown"),
        (
            "postgresql://mlflow:a%2Fbcdefgh@h/d",
            "no a/bcdefgh for mlflow in outputs/mlflow.db",
            "no *** for *** in outputs/mlflow.db",
        ),
        ("https://h/p?key=abcdefghij", "url: /p?key=abcdefghij", "url: /p?key=***"),
        ("https://h/p?key=ab", "at https://h/p?key=ab.", "at https://h/p?***"),
        ("sqlite:////tmp/x.db", "at sqlite:////tmp/x.db", "at sqlite:////tmp/x.db"),
    ],
)
def test_hide(monkeypatch: pytest.MonkeyPatch, uri: str, text: str, hidden: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert hide(text) == hidden


class Server(BaseHTTPRequestHandler):
    """Answers with the status that is asked for, and with the address that was asked, as some proxies do."""

    def do_GET(self) -> None:
        self.send_response(int(self.server.status))  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(f"cannot serve http://{USER}:{PASSWORD}@h{self.path}".encode())

    do_POST = do_GET

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    it = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=it.serve_forever)
    thread.start()
    yield it
    it.shutdown()
    thread.join()
    it.server_close()


@pytest.fixture(params=["closed", "malformed", "503", "401", "database", "driver"])
def address(request: pytest.FixtureRequest, server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLFLOW_TRACKING_URI with secrets in it, that fails in one of several ways."""
    login = f"{USER}:{PASSWORD}@"
    others = {
        "closed": f"http://{login}127.0.0.1:9/?token={TOKEN}",
        "malformed": f"http://{login}[127.0.0.1/?token={TOKEN}",
        "database": f"mysql+pymysql://{login}127.0.0.1:9/d?charset={TOKEN}",
        "driver": f"postgresql+{TOKEN}://{login}127.0.0.1:9/d?application_name={TOKEN}",
    }
    server.status = request.param if request.param.isdigit() else "500"
    uri = others.get(request.param, f"http://{login}127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return uri


def refuse_secrets(folder: Path, shown: str) -> None:
    """All files but the data, and what was shown."""
    files = [path for path in folder.rglob("*") if path.is_file() and "data" not in path.parts]
    for place, text in [("shown", shown.encode()), *((path.name, path.read_bytes()) for path in files)]:
        for secret in PLAIN:
            at = text.find(secret.encode())
            assert at < 0, f"{place}: {text[max(0, at - 300) : at + 100]!r}"


def test_nothing_secret_is_written(
    tmp_path: Path, plan: Any, address: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """config.yaml, status.json, error.txt, job.log, the journal; what a job and `seqmtl sync` print; whatever any library logs."""
    caplog.set_level("INFO")
    run_dir = plan("model=mmoe", "trainer.max_epochs=1")
    with contextlib.suppress(SeqmtlError):
        job.run(run_dir)
    with contextlib.suppress(SeqmtlError):
        sync.run([str(run_dir.parent)])
    shown = "".join(capfd.readouterr()) + caplog.text
    told = shown + "".join(path.read_text() for path in run_dir.glob("error.txt"))
    assert "MLflow at" in told
    refuse_secrets(tmp_path, shown)


@pytest.mark.slow
def test_nothing_secret_on_the_command_line(tmp_path: Path, dataset: Path, server: Any) -> None:
    """A sweep with debug=true, which shows tracebacks, and its console.log."""
    server.status = "401"
    words = ["model=mmoe", "trainer=debug", "batch_size=50", "trainer.max_batches=4", "debug=true", "-m"]
    env = os.environ | {"MLFLOW_TRACKING_URI": f"http://{USER}:{PASSWORD}@127.0.0.1:{server.server_port}"}
    command = [sys.executable, "-m", "seqmtl.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert "it does not know this user" in done.stderr
    refuse_secrets(tmp_path, done.stdout + done.stderr)


def test_an_error_of_any_kind_is_written_without_secrets(
    tmp_path: Path, plan: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever raises, and through whatever: error.txt has the whole traceback, the job's process shows it."""
    uri = f"http://{USER}:{PASSWORD}@h/?token={TOKEN}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def fail(*_: Any) -> Any:
        try:
            raise OSError(f"no answer of {uri}")
        except OSError as e:
            raise RuntimeError(f"{TOKEN} is refused by {uri}") from e

    monkeypatch.setattr(job, "_tracker", fail)
    run_dir = plan("model=mmoe")
    monkeypatch.setattr(sys, "argv", ["job", str(run_dir)])
    monkeypatch.setattr(job, "die_with_parent", lambda: None)
    assert job.main() == 1
    assert "RuntimeError" in (run_dir / "error.txt").read_text()
    refuse_secrets(tmp_path, "".join(capfd.readouterr()))
