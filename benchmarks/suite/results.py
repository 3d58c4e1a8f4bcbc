"""What a benchmark found: results.json, and the same as Markdown tables."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqmtl.tracking import git_commit

WHAT = ("train", "infer", "stream", "convert", "startup", "scaling")
KEYS = ("what", "model", "dim", "batch", "optimizer", "rows_per_second", "peer", "peer_rows_per_second", "ratio", "peak_mb")

Result = dict[str, Any]


def result(what: str, **values: Any) -> Result:
    """One entry: all of KEYS, None where there is nothing to say, then what else is given."""
    assert what in WHAT, what
    return dict.fromkeys(KEYS) | {"what": what} | values


def compared(what: str, ours: Mapping[str, float], peer: str, theirs: Mapping[str, float], **values: Any) -> Result:
    """An entry of two contenders, each with its rows_per_second, low, high and peak_mb."""
    ratio = ours["rows_per_second"] / theirs["rows_per_second"]
    of_peer = {f"peer_{key}": value for key, value in theirs.items()}
    return result(what, **values, **ours, peer=peer, **of_peer, ratio=ratio)


def facts(threads: int) -> dict[str, Any]:
    """What has to be known beside each number."""
    import torch

    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [x.partition(":")[2].strip() for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def update(folder: Path, what: str, found: Iterable[Result], known: Mapping[str, Any]) -> None:
    """Replace the entries of one kind in results.json, and write results.md anew."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    before: list[Result] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    entries = [entry for entry in before if entry["what"] != what] + [entry | dict(known) for entry in found]
    entries.sort(key=lambda entry: WHAT.index(entry["what"]))
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(entries), encoding="utf-8")


def markdown(entries: Sequence[Result]) -> str:
    """A table for each kind that there is."""
    parts = []
    for what in WHAT:
        of_kind = [entry for entry in entries if entry["what"] == what]
        if of_kind:
            known = of_kind[0]
            machine = f"{known.get('machine', '')}, {known.get('threads', '')} threads, torch {known.get('torch', '')}"
            parts.append(f"## {what}\n\n{machine}; {known.get('date', '')}, commit {known.get('commit', '')}\n\n{_table(of_kind)}")
    return "\n".join(parts)


COLUMNS = {
    "model": ("model", str),
    "dim": ("d", str),
    "batch": ("batch", "{:,}".format),
    "optimizer": ("optimizer", str),
    "axis": ("against", str),
    "value": ("value", "{:,.0f}".format),
    "detail": ("", str),
    "seconds": ("seconds", "{:.2f}".format),
    "rows_per_second": ("rows/s", "{:,.0f}".format),
    "low": ("least", "{:,.0f}".format),
    "high": ("most", "{:,.0f}".format),
    "peer": ("peer", str),
    "peer_rows_per_second": ("its rows/s", "{:,.0f}".format),
    "peer_low": ("least", "{:,.0f}".format),
    "peer_high": ("most", "{:,.0f}".format),
    "ratio": ("ratio", "{:.2f}x".format),
    "peak_mb": ("peak MB", "{:,.0f}".format),
    "peer_peak_mb": ("its peak MB", "{:,.0f}".format),
    "seconds_slope": ("slope of seconds", "{:.2f}".format),
    "mb_slope": ("slope of MB", "{:.2f}".format),
}


def _table(entries: Sequence[Result]) -> str:
    """The columns in which any of the entries has a value."""
    keys = [key for key in COLUMNS if any(entry.get(key) is not None for entry in entries)]
    lines = [f"| {' | '.join(COLUMNS[key][0] for key in keys)} |", f"|{'|'.join('---' for _ in keys)}|"]
    for entry in entries:
        cells = ("" if entry.get(key) is None else COLUMNS[key][1](entry[key]) for key in keys)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
