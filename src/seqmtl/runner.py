"""A model that is no torch module: `model.runner` names a function that trains it, in the frame of job.py.

    run(config, folder, directory, meta, schema, tracker) → Trained

It gets the resolved config, the run directory, the prepared dataset with its meta.json, what is read of it, and MLflow's run. The
training loop's part of the config does not concern it: that is left out before the run is named, so that such a model stands in any
sweep once, whatever the sweep varies for the others.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqmtl.errors import SeqmtlError

if TYPE_CHECKING:
    from torch import Tensor

Metrics = Mapping[str, float | None]

READ = frozenset(
    {"seed", "data_dir", "raw_dir", "output_dir", "debug", "dry_run", "allow", "launcher", "dataset", "model", "trainer"}
)
READ_OF_TRAINER = frozenset({"name", "devices", "threads", "log_every", "progress"})
UNREAD = {"model": {"selection", "stages"}, "dataset": {"storage", "histories", "main_history"}}


@dataclass(frozen=True)
class Trained:
    """What a training hands over to the job, which tests it and writes the files of the run.

    Attributes:
        metrics: of the validation split, `val/…`, where the selection has chosen.
        test: reads the test split: {`test/…`: value}, log-odds (N,T) float32 in the order of its shards.
        parameters: None for a model that is not made of parameters.
        times: seconds and speeds for status.json.
    """

    metrics: Metrics
    test: Callable[[], tuple[Metrics, Tensor]]
    parameters: int | None
    times: Mapping[str, float]


def reduced(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config less what such a model does not read; its loss is the cross-entropy, where it runs is one process on the CPU."""
    kept = {key: copy.deepcopy(value) for key, value in config.items() if key in READ}
    kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key in READ_OF_TRAINER} | {"devices": 1}
    for node, keys in UNREAD.items():
        kept[node] = {key: value for key, value in kept[node].items() if key not in keys}
    kept["dataset"] |= {"histories": {}, "main_history": None}
    return kept | {"loss": {"name": "bce"}}


def refuse_unread(config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Refuse what the command line of a single run names and such a model does not read.

    Args:
        config: as composed.
        overrides: the words of the command line, key=value.

    Raises:
        SeqmtlError: names them.
    """
    name = config["model"]["name"]
    named = dict.fromkeys(_unread(re.split("[=@/]", word.lstrip("+~"))[0], config) for word in overrides)
    unread = [key for key in named if key]
    if unread:
        raise SeqmtlError(
            f"model={name} does not read {', '.join(unread)}: leave it out (a sweep, -m, leaves it out for this model itself)"
        )
    devices = config["trainer"]["devices"]
    if devices != 1:
        raise SeqmtlError(f"model={name} runs on the CPU, in one process, and not on {devices} devices: add trainer.devices=1")


def _unread(key: str, config: Mapping[str, Any]) -> str:
    """The first one or two words of a dotted key that is not read; empty where it is, or is none of the config (experiment=…)."""
    top, _, below = key.partition(".")
    word = below.partition(".")[0]
    if top not in READ:
        return (f"{top}.{word}" if word else top) if top in config else ""
    unread = word not in READ_OF_TRAINER if top == "trainer" else word in UNREAD.get(top, ())
    return f"{top}.{word}" if word and unread else ""
