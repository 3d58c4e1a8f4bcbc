"""The run directory: where a run lies, what state it is in, who holds it.

    <output_dir>/<dataset>/<model>-<loss>-<hash>/seed=<n>/
        config.yaml  status.json  metrics.json  best.ckpt  last.ckpt  test_logits.npy
        mlflow.jsonl  mlflow.sent  mlflow_run_id
        job.log  console.log  error.txt  attempt-<n>/  <stage>/best.ckpt  <stage>/last.ckpt  <stage>/fitted.json

Unusual: the state is not what status.json says alone. "running" with nobody holding the lock (lock.py) is a run that was cut off.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from seqmtl.disk import disk_errors, write_file
from seqmtl.lock import Owner, hold, owner
from seqmtl.paths import file_name

State = Literal["new", "running", "interrupted", "failed", "finished"]

# Keys that do not change what a run computes: where it runs, what it shows, and what `prepare` was told (data have a version of
# their own). A dotted path stands for all below it.
NOT_HASHED = (
    *("seed", "data_dir", "raw_dir", "output_dir", "debug", "dry_run", "allow", "dataset.prepare", "dataset.about", "launcher"),
    # Read through prepare.simulate.rates, batch_size, model.trunk.profile, and parents of trunks and losses; by tables.
    *("dataset.rates", "dataset.batch_size", "dataset.profile", "dataset.transfer", "dataset.user"),
    *("trainer.name", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.threads"),
    *(
        "trainer.workers",
        "trainer.log_every",
        "trainer.checkpoint_every",
        "trainer.progress",
        "trainer.compile",
        "trainer.cuda_graph",
    ),
)

_ABSENT = object()


def config_hash(config: Mapping[str, Any]) -> str:
    """8 hex digits over the resolved config, less what does not change the result."""
    return hashlib.sha256(json.dumps(counted(config), sort_keys=True).encode()).hexdigest()[:8]


def counted(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config less what does not change the result."""
    counted: dict[str, Any] = copy.deepcopy(dict(config))
    for key in NOT_HASHED:
        node, *path = counted, *key.split(".")
        for part in path[:-1]:
            node = node.get(part, {})
        node.pop(path[-1], None)
    return counted


def settings_of(config: Mapping[str, Any]) -> str:
    """What the hash leaves out, as JSON: what tells the commands apart that share a run directory."""
    found = {}
    for key in NOT_HASHED:
        node: Any = config
        for part in key.split("."):
            node = node.get(part, _ABSENT) if isinstance(node, Mapping) else _ABSENT
        if node is not _ABSENT:
            found[key] = node
    return json.dumps(found, sort_keys=True)


def with_settings(config: Mapping[str, Any], settings: str) -> dict[str, Any]:
    """`config`, but with the settings of another command for the same run (`settings_of`)."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    given = json.loads(settings)
    for key in NOT_HASHED:
        *parents, last = key.split(".")
        node = changed
        for part in parents:
            node = node.setdefault(part, {}) if key in given else node.get(part, {})
        if key in given:
            node[last] = given[key]
        else:
            node.pop(last, None)
    return changed


def run_directory(config: dict[str, Any]) -> Path:
    """Where the run of this resolved config lies.

    Raises:
        SeqmtlError: a name in the config would lead elsewhere.
    """
    dataset, model, loss = (file_name(config[key]["name"], f"{key}.name") for key in ("dataset", "model", "loss"))
    seed = file_name(f"seed={config['seed']}", "the folder of a seed")
    return Path(config["output_dir"]).absolute() / dataset / f"{model}-{loss}-{config_hash(config)}" / seed


def run_label(config: Mapping[str, Any]) -> str:
    """What people call the run, less its seed: model/loss, and the step where that is not the plain one."""
    step = config.get("step", {}).get("name", "plain")  # a runner's config has none
    return "/".join([config["model"]["name"], config["loss"]["name"], *([] if step == "plain" else [step])])


def differences(configs: Sequence[Mapping[str, Any]], most: int = 3) -> list[str]:
    """What tells configs of one label apart, for each: `trunk=aitm` where they differ in their parts, else up to `most` options."""
    flat = [dict(_leaves(counted(config))) for config in configs]
    keys = [key for key in dict.fromkeys(k for one in flat for k in one) if len({repr(one.get(key)) for one in flat}) > 1]
    parts = [key for key in keys if key.endswith(".name") and key.count(".") > 1]
    chosen = parts or keys[:most]
    return [" ".join(f"{key.removesuffix('.name').rpartition('.')[2]}={one[key]}" for key in chosen if key in one) for one in flat]


def told_apart(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The label of each config, and where another one has the same label, what differs."""
    labels = [run_label(config) for config in configs]
    told = dict.fromkeys(range(len(configs)), "")
    for label in dict.fromkeys(labels):
        alike = [i for i, other in enumerate(labels) if other == label]
        if len(alike) > 1:
            words = differences([configs[i] for i in alike])
            told |= {
                i: said if words.count(said) == 1 else f"{said} {config_hash(configs[i])}"
                for i, said in zip(alike, words, strict=True)
            }
    return [f"{label} {told[i]}".rstrip() for i, label in enumerate(labels)]


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path

    def status(self) -> dict[str, Any]:
        """status.json, {} where there is none or it is damaged."""
        try:
            status = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, state: str, **more: Any) -> None:
        """Replace status.json: running | interrupted | finished | failed, when, and what else there is to say.

        The version of the data stays as it was unless another is given: who ends a job from outside does not know it.
        """
        kept = {key: value for key, value in self.status().items() if key == "data_version"}
        content = {"state": state, "time": datetime.now(UTC).isoformat(timespec="seconds"), "pid": os.getpid()} | kept | more
        write_file(self.path / "status.json", (json.dumps(content, indent=1) + "\n").encode())

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.yaml."""
        write_file(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode())

    def metrics(self) -> dict[str, float | None]:
        """metrics.json, {} where there is none or it is damaged."""
        try:
            metrics = json.loads((self.path / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return metrics if isinstance(metrics, dict) else {}

    def write_finished(self, data_version: str, times: Mapping[str, float]) -> None:
        """status.json of a run that is finished: with what tells whether its results are still what they were."""
        self.write_status("finished", data_version=data_version, times=dict(times), results=self._results())

    def _results(self) -> dict[str, int]:
        """The checksum of metrics.json, and the size of test_logits.npy, which may be too large to be read each time."""
        try:
            checksum = zlib.crc32((self.path / "metrics.json").read_bytes())
            return {"metrics_crc32": checksum, "logits_bytes": (self.path / "test_logits.npy").stat().st_size}
        except OSError:
            return {}

    def finished(self, data_version: str) -> bool:
        """Whether nothing is left to do: finished, on these data, and the results are there and whole."""
        status = self.status()
        return status.get("state") == "finished" and status.get("data_version") == data_version and self._whole(status)

    def _whole(self, status: Mapping[str, Any]) -> bool:
        return bool(self.metrics()) and ("results" not in status or status["results"] == self._results())

    def state(self, data_version: str | None = None, now: float | None = None) -> State:
        """What the run is now, whatever its files say: a run whose process is gone is interrupted, not running.

        Args:
            data_version: a run on other data counts as new, as it is started anew; None: on whichever data.
            now: as of `held`.

        Returns:
            running: a process holds it. interrupted: it goes on from where it was. failed and new: it starts from the beginning.
        """
        while True:  # until no process has begun or ended between the two looks
            status, holder = self.status(), self.held(now)
            if self.status() == status:
                break
        said = status.get("state")
        if holder is not None:
            return "running"
        if said == "failed":
            return "failed"
        if said not in ("running", "interrupted", "finished") or data_version not in (None, status.get("data_version")):
            return "new"
        return "finished" if said == "finished" and self._whole(status) else "interrupted"

    def leftovers(self) -> list[Path]:
        """The files of an earlier attempt, which a start from the beginning moves away."""
        stay = ("config.yaml", ".lock", "slurm.json")
        try:
            return [p for p in self.path.iterdir() if p.name not in stay and not p.name.startswith(("attempt-", "console"))]
        except OSError:
            return []

    def next_attempt(self) -> Path:
        """Where they go."""
        numbers = [p.name.removeprefix("attempt-") for p in self.path.glob("attempt-*")]
        return self.path / f"attempt-{max((int(n) for n in numbers if n.isdecimal()), default=0) + 1}"

    def ready(self, data_version: str) -> None:
        """Clear the way for a start: a run that was cut off keeps its files and goes on, any other's move to attempt-<n>/.

        One that is finished, but whose results are damaged, goes on, too: it is tested again.
        """
        status = self.status()
        if status.get("state") in ("running", "interrupted", "finished") and status.get("data_version") == data_version:
            return
        files = self.leftovers()
        if not files:
            return
        attempt = self.next_attempt()
        attempt.mkdir()
        # The status goes last: were this process killed in between, what is left must not look like a run to go on with.
        for path in sorted(files, key=lambda p: p.name == "status.json"):
            path.rename(attempt / path.name)

    def held(self, now: float | None = None) -> Owner | None:
        """Who runs it at this moment; nothing is changed.

        Args:
            now: the time on its file system (lock.file_system_time), by which a silent process of another host is given up.
        """
        return owner(self.path / ".lock", now)

    @contextlib.contextmanager
    def lock(self, purpose: str = "training") -> Iterator[None]:
        """Hold the directory; the kernel lets go when the process dies.

        Raises:
            Held: another process holds it.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with hold(self.path / ".lock", purpose):
            yield
