"""No password of MLFLOW_TRACKING_URI in anything that is shown or written.

Unusual: what is hidden is looked for in any text, since MLflow, SQLAlchemy and requests put the address into their own words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, unquote

HIDDEN = "***"
_OTHERS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # MLflow's own ways to give what the address leaves out


def hide(text: str) -> str:
    """`text` with *** in the place of user, password, token and query values."""
    # First as parts of an address, in which they may be too short or too common to be looked for elsewhere.
    text = re.sub(r"(\w://)[^/\s'\"]*@", rf"\g<1>{HIDDEN}@", text)
    text = re.sub(r"(\w://[^\s?'\"]+\?)[^\s'\"]+", rf"\g<1>{HIDDEN}", text)
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        pattern = re.escape(secret)
        # A user called `mlflow` is no reason to spoil the name of mlflow.db.
        text = re.sub(pattern if len(secret) > 7 else rf"(?<![\w./-]){pattern}(?![\w./-])", HIDDEN, text)
    return text


def _secrets() -> Iterator[str]:
    given = [os.environ.get(name, "") for name in _OTHERS]
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    before, at, _ = uri.partition("://")[2].rpartition("@")
    if at:
        given += before.split("/")[0].split(":", 1)
    # A word such as `require` of sslmode is no secret, and found in any text.
    given += [value for _, value in parse_qsl(uri.partition("?")[2]) if len(value) > 7 and "/" not in value]
    for secret in given:
        yield from (form for form in (secret, unquote(secret), quote(unquote(secret), safe="")) if form)
