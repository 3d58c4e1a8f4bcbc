"""`seqmtl status [output_dir] [--json]`: the runs below a directory, by state. It only looks: nothing is created or changed."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seqmtl.errors import SeqmtlError
from seqmtl.lock import file_system_time, last_beat
from seqmtl.plural import plural
from seqmtl.runs import Run, told_apart

if TYPE_CHECKING:
    from rich.table import Table

ORDER = ("running", "interrupted", "failed", "new", "finished")
WORDS = {"new": "not started"}
TAIL = 64 * 1024  # bytes of a job.log that are read: hours of lines

Entry = dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """The verb.

    Raises:
        SeqmtlError: there is no such directory.
    """
    parser = argparse.ArgumentParser(prog="seqmtl status", description="the runs below a directory, by state; nothing is changed")
    parser.add_argument("output_dir", nargs="?", default="outputs", type=Path, help="or a folder inside it (outputs)")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output; docs/runs.md has their keys")
    arguments = parser.parse_args(argv)
    if not arguments.output_dir.is_dir():
        raise SeqmtlError(f"there is no directory {arguments.output_dir}; say where the runs lie: seqmtl status OUTPUT_DIR")
    found = entries(arguments.output_dir)
    if arguments.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    elif not found:
        print(f"no runs in {arguments.output_dir.absolute()}; seqmtl makes them: seqmtl --help")
    else:
        _show(found)
    return 0


def find(directory: Path) -> list[Run]:
    """Run directories: output_dir/dataset/config/seed=n, from any of these four on."""
    directory = directory.absolute()
    found = [directory] if directory.name.startswith("seed=") else []
    for pattern in ("seed=*", "*/seed=*", "*/*/seed=*"):
        found += directory.glob(pattern)
    return [Run(path) for path in sorted(found) if path.is_dir()]


def entries(directory: Path) -> list[Entry]:
    """What there is to know of each run below `directory`; what is damaged counts as missing."""
    runs = find(directory)
    names = _names(runs)
    now = file_system_time(directory)
    found = [_entry(run, names[run.path.parent], now) for run in runs]
    return sorted(found, key=lambda e: (ORDER.index(e["state"]), e["dataset"], e["label"], e["seed"] or 0))


def _names(runs: Iterable[Run]) -> dict[Path, Entry]:
    """What is common to all seeds of a config, by its directory: its own names where it can be read, else the directory's."""
    seeds: dict[Path, list[Run]] = defaultdict(list)
    for run in runs:
        seeds[run.path.parent].append(run)
    names: dict[Path, Entry] = {}
    configs: dict[str, dict[Path, Any]] = defaultdict(dict)
    for path, group in seeds.items():
        names[path] = {"dataset": path.parent.name, "label": path.name, "model": None, "loss": None, "step": None}
        config = next(filter(None, (_config(run) for run in group)), None)
        if config is not None:
            parts = {part: config[part]["name"] for part in ("dataset", "model", "loss")}
            names[path] = parts | {"label": "", "step": config.get("step", {}).get("name", "plain")}
            configs[parts["dataset"]][path] = config
    for of_dataset in configs.values():
        for path, label in zip(of_dataset, told_apart(list(of_dataset.values())), strict=True):
            names[path]["label"] = label
    return names


def _config(run: Run) -> dict[str, Any] | None:
    """config.yaml; None where it is missing, damaged, or not one of ours."""
    try:
        text = (run.path / "config.yaml").read_text(encoding="utf-8")
        config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times as fast, where libyaml is
        groups = [config[part] for part in ("dataset", "model", "loss")] + [config.get("step", {})]
        named = [group.get("name", "") for group in groups]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None
    return config if all(isinstance(name, str) for name in named) and all(named[:3]) else None


def _entry(run: Run, names: Entry, now: float) -> Entry:
    state, status, holder = run.state(now=now), run.status(), run.held(now)
    beat = last_beat(run.path / ".lock") if state in ("running", "interrupted") else None
    progress, validation = (None, {}) if state in ("finished", "new") else _progress(run.path / "job.log")
    seed = run.path.name.removeprefix("seed=")
    return names | {
        "path": str(run.path),
        "seed": int(seed) if seed.isdecimal() else None,
        "state": state,
        "time": status.get("time"),
        "owner": asdict(holder) if holder else None,
        "heartbeat_seconds": None if beat is None else round(max(0.0, now - beat), 1),
        "progress": progress,
        "metrics": _numbers(run.metrics()) if state == "finished" else validation,
        "error": _why(state, status),
        "mlflow_run_id": _mlflow_run_id(run.path),
    }


def _why(state: str, status: Mapping[str, Any]) -> str | None:
    """First line of what status.json says of a failure, or of an interruption that was meant."""
    if state == "failed":
        return _first_line(status.get("error")) or "metrics.json is missing or damaged"
    return _first_line(status.get("reason")) if state == "interrupted" else None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    return {str(k): v for k, v in metrics.items() if v is None or (isinstance(v, int | float) and not isinstance(v, bool))}


def _first_line(text: Any) -> str | None:
    """Without what could move a terminal's cursor."""
    lines = str(text or "").strip().splitlines()
    return "".join(c if c.isprintable() else " " for c in lines[0]) if lines else None


def _mlflow_run_id(path: Path) -> str | None:
    try:
        return _first_line((path / "mlflow_run_id").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _progress(log: Path) -> tuple[str | None, dict[str, float | None]]:
    """The last line of job.log without its time, and the validation AUCs of the last epoch that has them."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None, {}
    said = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
    last = _first_line(said[-1].split(" ", 2)[2]) if said else None
    for line in reversed(said):
        found = re.search(r"(?:([\w-]+)/)?epoch \d+/\d+ .*validation AUC: (.+)", line)
        if found:
            stage = f"{found[1]}/" if found[1] else ""
            pairs = (pair.rpartition(" ") for pair in found[2].split(", "))
            return last, {f"{stage}val/auc/{task}": _float(value) for task, _, value in pairs}
    return last, {}


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # undefined: one class only
        return None


def _show(found: list[Entry]) -> None:
    from seqmtl.report import console

    console().print(_table(found))
    for entry in found:
        if entry["error"]:
            print(f"{_state(entry)}: {_run(entry)}: {entry['error']}\n    see {entry['path']}")
    counts = Counter(entry["state"] for entry in found)
    of_states = ", ".join(f"{counts[state]} {WORDS.get(state, state)}" for state in ORDER if counts[state])
    print(f"{plural(len(found), 'run')}: {of_states}")


def _state(entry: Entry) -> str:
    state: str = entry["state"]
    return WORDS.get(state, state)


def _run(entry: Entry) -> str:
    return f"{entry['dataset']} {entry['label']} {Path(entry['path']).name}"


def _table(found: list[Entry]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in ("state", "run", "heartbeat", "how far", "AUC", "MLflow"):
        table.add_column(head, overflow="fold")
    before = found[0]["state"]
    for entry in found:
        if entry["state"] != before:
            table.add_section()
            before = entry["state"]
        cells = (_state(entry), _run(entry), _age(entry), entry["progress"] or "", _aucs(entry), (entry["mlflow_run_id"] or "")[:8])
        table.add_row(*map(Text, cells))
    return table


def _age(entry: Entry) -> str:
    from seqmtl.report import seconds

    age = entry["heartbeat_seconds"]
    return "" if age is None else f"{seconds(age)} ago"


def _aucs(entry: Entry) -> str:
    """Of the test split where there are any, else of the validation."""
    from seqmtl.report import number

    for split in ("test", "val"):
        aucs = {key: value for key, value in entry["metrics"].items() if f"{split}/auc/" in key}
        if aucs:
            return f"{split} " + ", ".join(f"{key.rpartition('/')[2]} {number(value)}" for key, value in aucs.items())
    return ""
