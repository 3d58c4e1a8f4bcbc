"""`seqmtl bench [overrides]`: rows per second of the composed config on this machine, in training and in inference.

Rows are made in a temporary directory, in Ali-CCP's shape unless `sizes=` or `tasks=` says otherwise, or are those of a prepared
dataset (`data=DIRECTORY`). The training loop and the bare torch loop of the same step take turns.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from seqmtl.build import runner, stage_config, stages
from seqmtl.composing import composed
from seqmtl.data.meta import Meta, read_meta
from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.plan import check_stages
from seqmtl.targets import check_names

if TYPE_CHECKING:
    from rich.table import Table

    from seqmtl.bench.measure import Timed

WHOLE_NUMBERS = {"rows": 0, "predict": 1, "batches": 1, "warm_up": 0, "repeats": 1, "tasks": 1}
OWN = (*WHOLE_NUMBERS, "sizes", "data", "json")
VALID_ROWS = 1000  # the loop ends with a validation, whose time is not counted


@dataclass(frozen=True)
class Asked:
    """The verb's own words.

    Args:
        rows: of the training split; 0: as many as the batches have.
        predict: rows of the test split.
        batches, warm_up: timed batches, after so many others.
        repeats: turns.
        tasks: steps of the funnel; 0: those of the config's dataset.
        sizes: rows of each field's table; none: Ali-CCP's.
        data: a prepared dataset to read instead of made rows.
        json: a file for what was measured.
    """

    rows: int = 0
    predict: int = 200_000
    batches: int = 100
    warm_up: int = 10
    repeats: int = 3
    tasks: int = 0
    sizes: tuple[int, ...] = ()
    data: Path | None = None
    json: Path | None = None


def run(words: Sequence[str], folders: Sequence[Path]) -> int:
    """The verb.

    Args:
        words: behind it.
        folders: conf folders, seqmtl's own first.

    Returns:
        The exit status.

    Raises:
        SeqmtlError: bad input, or a config that cannot be measured.
    """
    asked, overrides = read_words(words)
    config = composed_config(overrides, folders)
    with _rows(asked, config) as (directory, meta):
        result = measured(config, directory, meta, asked)
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        write_file(asked.json, (json.dumps(result, indent=1) + "\n").encode())
    _show(result)
    return 0


def read_words(words: Sequence[str]) -> tuple[Asked, list[str]]:
    """The verb's own words, and the overrides of a training.

    Raises:
        SeqmtlError: a flag, a word without a value, or a value that its key cannot have.
    """
    own: dict[str, Any] = {}
    overrides = []
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-") or not (equals or word.startswith("~")):
            raise SeqmtlError(f"bench takes key=value only, not '{word}'; it measures one config (seqmtl bench --help)")
        if key in WHOLE_NUMBERS:
            own[key] = _whole(key, value)
        elif key == "sizes":
            own[key] = tuple(_whole(key, size, 1) for size in value.strip("[]").split(","))
        elif key in OWN:
            own[key] = Path(value)
        else:
            overrides.append(word)
    return Asked(**own), overrides


def _whole(key: str, text: str, least: int | None = None) -> int:
    least = WHOLE_NUMBERS.get(key, 1) if least is None else least
    if not (text.strip().isascii() and text.strip().isdecimal()) or int(text) < least:
        raise SeqmtlError(
            f"{key} must be {'whole numbers' if key == 'sizes' else 'a whole number'} of at least {least}, not {text!r}"
        )
    return int(text)


def composed_config(overrides: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """The resolved config of the last stage of a training.

    Raises:
        SeqmtlError: Hydra refuses it, or it is nothing that this verb can measure.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    (cfg,) = composed([()], overrides, folders)
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as e:
        raise SeqmtlError(f"the config cannot be resolved: {e}") from e
    check_names(config)
    if runner(config) is not None:
        raise SeqmtlError(f"model={config['model']['name']} has no training loop of batches, so bench cannot measure it")
    check_stages(config)
    if config["trainer"]["devices"] * config["trainer"]["num_nodes"] > 1:
        raise SeqmtlError("bench measures one process: trainer=cpu or trainer=gpu, trainer.devices=1")
    config["dataset"] |= {"fields": None, "bags": {}, "downsample": None}
    return stage_config(config, stages(config)["main"])


@contextlib.contextmanager
def _rows(asked: Asked, config: dict[str, Any]) -> Iterator[tuple[Path, Meta]]:
    """The prepared dataset to measure on; `config` takes its tasks from it."""
    if asked.data is not None:
        try:
            meta = read_meta(asked.data)
        except FileNotFoundError:
            raise SeqmtlError(f"data={asked.data}: there is no prepared dataset") from None
        config["dataset"]["tasks"] = list(meta.parents)
        yield asked.data.absolute(), meta
        return
    from seqmtl.bench.rows import VOCABULARY, RowMaker, write_rows

    sizes = {f"f{i}": size for i, size in enumerate(asked.sizes)} or VOCABULARY
    tasks = config["dataset"]["tasks"]
    if asked.tasks:
        tasks = [*tasks, *(f"step{t + 1}" for t in range(len(tasks), asked.tasks))][: asked.tasks]
    config["dataset"]["tasks"] = tasks
    histories = {name: int(options["max_len"]) for name, options in (config["dataset"]["histories"] or {}).items()}
    rows = asked.rows or config["batch_size"] * (asked.warm_up + asked.batches)
    with tempfile.TemporaryDirectory(prefix="seqmtl-bench-") as place:
        directory = Path(place) / "rows"
        maker = RowMaker(sizes, tasks, histories, seed=config["seed"])
        yield directory, write_rows(directory, maker, {"train": rows, "valid": VALID_ROWS, "test": asked.predict})


def measured(config: Mapping[str, Any], directory: Path, meta: Meta, asked: Asked) -> dict[str, Any]:
    """What JSON gets: the facts of the config, then rows per second of each repetition.

    Raises:
        SeqmtlError: there are fewer batches than are to be timed.
    """
    import torch

    from seqmtl.bench.measure import Measured, device_peak_mb, peak_mb
    from seqmtl.process import keep_memory

    if config["trainer"]["accelerator"] == "cpu":
        keep_memory()  # as a job does
    found: dict[str, list[Timed]] = {"train": [], "bare": [], "predict": []}
    for _ in range(asked.repeats):
        one = Measured(config, directory, meta, asked.warm_up, asked.batches)
        batches = -(-meta.rows["train"] // one.stage.data.batch_size)
        if batches <= asked.warm_up:
            raise SeqmtlError(f"{meta.rows['train']:,} rows are {batches} batches, no more than the warm-up: rows=… or warm_up=…")
        found["train"].append(one.train())
        found["predict"].append(one.predict())
        device, parameters = one.device, one.stage.parameters
        del one
        gc.collect()  # a trainer and its model hold each other, and the next takes as much memory again
        found["bare"].append(Measured(config, directory, meta, asked.warm_up, asked.batches).bare())
        gc.collect()
    names = {group: config[group]["name"] for group in ("model", "loss", "step", "optimizer")}
    is_gpu = device.type == "cuda"
    return {
        **names,
        "dim": config["model"].get("dim"),
        "batch": config["batch_size"],
        "precision": config["trainer"]["precision"],
        "device": torch.cuda.get_device_name(device) if is_gpu else f"{os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": dict(meta.rows),
        "fields": len(meta.fields),
        "vocabulary": sum(meta.fields.values()),
        "tasks": list(meta.parents),
        "parameters": parameters,
        **{what: _summary(times) for what, times in found.items()},
        "overhead": median(t.ms_per_step for t in found["train"]) / median(t.ms_per_step for t in found["bare"]) - 1,
        "peak_mb": peak_mb(),
        "device_peak_mb": device_peak_mb(device),
    }


def _summary(times: Sequence[Timed]) -> dict[str, Any]:
    speeds = [t.rows_per_second for t in times]
    return {
        "rows_per_second": median(speeds),
        "low": min(speeds),
        "high": max(speeds),
        "ms_per_step": median(t.ms_per_step for t in times),
        "repeats": [asdict(t) for t in times],
    }


def _show(result: Mapping[str, Any]) -> None:
    from seqmtl.report import console

    print(
        f"{result['model']}/{result['loss']}/{result['step']}, dim {result['dim']}, batches of {result['batch']:,},"
        f" optimizer={result['optimizer']}, {result['parameters']:,} parameters\n"
        f"{result['fields']} fields, {result['vocabulary']:,} ids, {len(result['tasks'])} tasks;"
        f" {result['device']}, {result['threads']} threads, {result['precision']}, torch {result['torch']}"
    )
    console().print(_table(result))
    memory = f"peak memory {result['peak_mb']:,.0f} MB"
    if result["device_peak_mb"] is not None:
        memory += f", of the GPU {result['device_peak_mb']:,.0f} MB"
    print(f"the training loop takes {100 * result['overhead']:+.1f} % of the bare loop's time on top; {memory}")


def _table(result: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("what")
    for head in ("rows/s", "least", "most", "ms a step"):
        table.add_column(head, justify="right")
    for what, name in (("train", "training loop"), ("bare", "bare loop of the same step"), ("predict", "inference, with metrics")):
        of = result[what]
        table.add_row(name, *(f"{of[key]:,.0f}" for key in ("rows_per_second", "low", "high")), f"{of['ms_per_step']:.2f}")
    return table
