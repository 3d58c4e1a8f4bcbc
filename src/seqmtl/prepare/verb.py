"""`seqmtl prepare dataset=NAME`: raw files → shards; simulated raw files are made first.

Unusual: `dataset.prepare` is both the call and the record. Its `_target_` is called with its other keys, and the whole of it goes
into meta.json, where the next call and every training compare it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.data.meta import SPLITS, prepare_command, read_meta
from seqmtl.disk import disk_errors
from seqmtl.errors import SeqmtlError
from seqmtl.paths import file_name
from seqmtl.prepare.atomic import locked, recover, replacing
from seqmtl.prepare.summary import print_summary
from seqmtl.targets import find

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

LAYOUT = {"meta.json", "oracle", "histories", "bags", *SPLITS}


def run(cfg: DictConfig) -> str:
    """Prepares `cfg.dataset`, or checks what is there, and returns the last line of what it printed.

    Reads data_dir, raw_dir (null: `<data_dir>/raw/<name>`), overwrite, check, dataset.name, dataset.prepare (a check: dataset).

    Raises:
        SeqmtlError: the data are there with other options and overwrite is false; raw files or options are bad; the disk refuses;
            check found something.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    console = Console()
    name = file_name(cfg.dataset.name, "dataset.name")
    data_dir = Path(str(cfg.data_dir))
    raw_dir = Path(str(cfg.raw_dir)) if cfg.raw_dir is not None else data_dir / "raw" / name
    target = data_dir / name
    if cfg.get("check"):
        from seqmtl.prepare.check import check

        dataset: Any = OmegaConf.to_container(cfg.dataset, resolve=True)
        return _say(console, check(console, dataset, target.absolute()))
    options: Any = OmegaConf.to_container(cfg.dataset.prepare, resolve=True)
    if not options:
        raise SeqmtlError(
            f"dataset.prepare of '{name}' names no converter: another tool writes it into {target};"
            f" {prepare_command(target)} check=true looks whether it did so well"
        )
    _refuse_nested(target, raw_dir)
    overwrite = bool(cfg.overwrite)

    def waiting() -> None:
        console.print(f"another process is preparing {target}; waiting for it")

    if not overwrite and _made(target, options):
        return _say(console, _already(target))
    with locked(target, waiting):
        recover(target)
        if not overwrite and _made(target, options):  # by the process that we waited for
            return _say(console, _already(target))
        _refuse_foreign(target)
        _make(console, target, raw_dir, options)
    meta = read_meta(target)
    print_summary(console, name, meta)
    return _say(console, f"{name} lies in {target}: {sum(meta.rows.values()):,} rows, {len(meta.fields)} fields")


def _say(console: Console, message: str) -> str:
    console.print(message, highlight=False, soft_wrap=True)
    return message


def _already(target: Path) -> str:
    return f"{target} is already prepared with these options; overwrite=true makes it again"


def _made(target: Path, options: dict[str, Any]) -> bool:
    """True if the data are there with the same options; an error if with others, or damaged."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        meta = read_meta(target)
    except (FileNotFoundError, NotADirectoryError):
        raise SeqmtlError(f"{target} has no meta.json; overwrite=true makes the dataset again") from None
    for path, shard in meta.shards.items():
        size = (target / path).stat().st_size if (target / path).is_file() else None
        if size != shard["bytes"]:
            what = "is missing" if size is None else f"has {size} bytes instead of {shard['bytes']}"
            raise SeqmtlError(f"{target / path} {what}; overwrite=true makes the dataset again")
    if meta.options is None:
        raise SeqmtlError(f"{target} was written by another tool; overwrite=true puts the dataset of these options in its place")
    differing = _differences(meta.options, options)
    if differing:
        raise SeqmtlError(
            f"{target} was prepared with other options:\n"
            + "\n".join(f"  dataset.prepare.{key}: {old!r} there, {new!r} asked for" for key, old, new in differing)
            + "\nAsk for the same, give another data_dir, or make it again with overwrite=true"
        )
    return True


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Keys of which the values differ, with both values; None where a key is missing."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(k for k in old if k not in new)]
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}" if key else str(k))]
    return [] if old == new else [(key, old, new)]


def _refuse_nested(target: Path, raw_dir: Path) -> None:
    if target.resolve() in (raw_dir.resolve(), *raw_dir.resolve().parents):
        raise SeqmtlError(f"raw_dir {raw_dir} lies inside {target}, where the dataset goes; move the raw files elsewhere")


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise SeqmtlError(f"{target} is a file; move it away or choose another data_dir")
    foreign = sorted({p.name for p in target.iterdir()} - LAYOUT) if target.exists() else []
    if foreign:
        raise SeqmtlError(
            f"{target} holds what no dataset of seqmtl holds ({', '.join(foreign[:5])}) and is not overwritten;"
            " move it away or choose another data_dir"
        )


def _make(console: Console, target: Path, raw_dir: Path, options: dict[str, Any]) -> None:
    from seqmtl.prepare.progress import progress
    from seqmtl.prepare.simulated import ensure_raw

    call = {k: v for k, v in options.items() if k not in ("_target_", "simulate")}
    prepare = _function(options, "dataset.prepare", call)
    with progress(console) as report:
        if options.get("simulate"):
            given = {k: v for k, v in options["simulate"].items() if k != "_target_"}
            simulate = _function(options["simulate"], "dataset.prepare.simulate", given)
            ensure_raw(raw_dir, simulate, given, report)
        with replacing(target) as partial, disk_errors(partial):  # of files that fail when they are closed
            prepare(raw_dir, partial, **call, options=options, report=report)


def _function(node: dict[str, Any], where: str, given: dict[str, Any]) -> Callable[..., Any]:
    """The function that `_target_` names, after a look at whether it takes the options given."""
    try:
        function: Callable[..., Any] = find(node.get("_target_"), "dataset.prepare")
    except SeqmtlError as e:
        raise SeqmtlError(f"{where}._target_ must name a function: {node.get('_target_')!r} ({e})") from e
    takes = inspect.signature(function).parameters
    known = [k for k in takes if k not in ("raw_dir", "directory", "options", "report")]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SeqmtlError(f"{where} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    for key, value in given.items():
        kind = takes[key].annotation  # a string: `drift: float = 0` takes fractions
        right = {"int": (int,), "float": (int, float)}.get(kind)
        if right and (isinstance(value, bool) or not isinstance(value, right)):
            raise SeqmtlError(f"{where}.{key} must be a {'whole ' if kind == 'int' else ''}number, not {value!r}")
        if key.endswith("seed") and value < 0:
            raise SeqmtlError(f"{where}.{key} must be 0 or above, not {value!r}")
    return function
