"""No user, password or token of MLFLOW_TRACKING_URI in anything that is shown or written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from seqmtl.redact import hide

USER, PASSWORD, TOKEN = "Somebody77", "Pass%2Fword77", "Token-77-abcdef"
PLAIN = (USER, "Pass/word77", PASSWORD, TOKEN)


@pytest.mark.parametrize(
    ("uri", "text", "hidden"),
    [
        ("https://u:p@h:1/x", "GET https://u:p@h:1/x failed", "GET https://***@h:1/x failed"),
        ("https://tok-en-12345@h", "host tok-en-12345 unknown", "host *** unknown"),
        ("postgresql://mlflow:a%2Fbcdefgh@h/d", "no a/bcdefgh for mlflow in outputs/mlflow.db", "no *** for *** in outputs/mlflow.db"),
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


def everything(folder: Path) -> bytes:
    """All files but the data."""
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and "data" not in path.parts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "unknown host", "503", "401", "malformed", "database"])
@pytest.mark.parametrize("sweep", [False, True], ids=["single", "sweep"])
def test_nothing_secret_is_shown_or_written(tmp_path: Path, dataset: Path, server: Any, kind: str, sweep: bool) -> None:
    login = f"{USER}:{PASSWORD}@"
    uri = {
        "closed": f"http://{login}127.0.0.1:9/?token={TOKEN}",
        "unknown host": f"http://{login}nowhere.invalid/?token={TOKEN}",
        "malformed": f"http://{login}[127.0.0.1/?token={TOKEN}",
        "database": f"postgresql://{login}127.0.0.1:9/d?application_name={TOKEN}",
    }.get(kind, f"http://{login}127.0.0.1:{server.server_port}")
    server.status = kind if kind.isdigit() else "500"
    words = ["model=mmoe", "trainer=debug", "batch_size=50", "trainer.max_batches=4", "debug=true", *(["-m"] if sweep else [])]
    env = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    command = [sys.executable, "-m", "seqmtl.cli"]
    done = subprocess.run([*command, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    synced = subprocess.run([*command, "sync"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    written = everything(tmp_path) + "".join([done.stdout, done.stderr, synced.stdout, synced.stderr]).encode()
    assert b"MLflow at" in written
    for secret in PLAIN:
        assert secret.encode() not in written, written[max(0, written.index(secret.encode()) - 400) :][:800]
