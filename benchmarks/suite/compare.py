"""Training and inference of seqmtl beside the peers: contenders of one model and width take turns on the same rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.contenders import WARM_UP, Contender, command_of, spread
from suite.models import APEM_BATCH, BATCH, INFER_BATCH, PEERS, dims_of, optimizers_there, overrides
from suite.results import Result, compared, result


@dataclass(frozen=True)
class Setting:
    """Of all comparisons.

    Args:
        data: the prepared rows.
        peers: the interpreter of the peers' environment; None: seqmtl alone.
        models, dims: what is compared.
        repeats: turns of each contender.
        threads: of each contender.
        apem_batches: the batches of a turn of APEM, whose plain form is slow.
    """

    data: Path
    peers: Path | None
    models: tuple[str, ...]
    dims: tuple[int, ...]
    repeats: int
    threads: int
    apem_batches: int


def compare(setting: Setting, kinds: Sequence[str]) -> dict[str, list[Result]]:
    """{"train": …, "infer": …}, of those that are asked for."""
    found: dict[str, list[Result]] = {kind: [] for kind in kinds}
    optimizers, lacking = optimizers_there()
    for name in lacking:
        print(f"left out: optimizer={name}, which conf/optimizer does not have", flush=True)
    if "train" not in kinds:
        optimizers = optimizers[:1]
    for model in setting.models:
        if model == "apem" and "train" not in kinds:
            continue  # its plain form is measured in training only
        for dim in dims_of(model, setting.dims):
            for kind, entries in _group(setting, kinds, model, dim, optimizers if model != "apem" else optimizers[:1]).items():
                found[kind] += entries
    return found


def _group(setting: Setting, kinds: Sequence[str], model: str, dim: int, optimizers: Sequence[str]) -> dict[str, list[Result]]:
    """The contenders of one model and width."""
    batch, batches = (APEM_BATCH, setting.apem_batches) if model == "apem" else (BATCH, None)
    kinds = [kind for kind in kinds if kind == "train" or model != "apem"]
    with _started(setting, model, dim, batch, optimizers) as contenders:
        answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for contender in contenders.values():
            contender.turn("train", WARM_UP)
        for _ in range(setting.repeats):
            if "train" in kinds:
                for name, contender in contenders.items():
                    answers.setdefault(("train", name), []).append(contender.turn("train", batches))
            if "infer" in kinds:
                for name, contender in contenders.items():
                    if name not in optimizers[1:]:  # they train the same model
                        answers.setdefault(("infer", name), []).append(contender.turn("infer"))
        versions = {name: contender.versions for name, contender in contenders.items()}
    measured = {key: spread(some) for key, some in answers.items()}
    found: dict[str, list[Result]] = {}
    for kind in kinds:
        theirs = {name: of for (k, name), of in measured.items() if k == kind and name not in optimizers}
        for optimizer in optimizers if kind == "train" else optimizers[:1]:
            ours = measured[kind, optimizer]
            common: dict[str, Any] = {"model": model, "dim": dim, "batch": batch if kind == "train" else INFER_BATCH}
            common |= {"optimizer": optimizer if kind == "train" else None}
            entries = [
                compared(kind, ours, peer, of_peer, **common, peer_versions=versions[peer]) for peer, of_peer in theirs.items()
            ]
            found[kind] = found.get(kind, []) + (entries or [result(kind, **common, **ours)])
    for entries in found.values():
        for entry in entries:
            _say(entry)
    return found


@contextlib.contextmanager
def _started(setting: Setting, model: str, dim: int, batch: int, optimizers: Sequence[str]) -> Iterator[dict[str, Contender]]:
    """Ours by their optimizer, then the peers by their name; all have imported what they need."""
    peers = [name for name in PEERS[model] if name == "plain" or setting.peers is not None]
    with contextlib.ExitStack() as stack:
        contenders = {}
        for name in (*optimizers, *peers):
            words = overrides(model, dim, batch, name, setting.threads) if name in optimizers else ()
            python = setting.peers or Path()
            command = command_of(name, setting.data, model, dim, batch, setting.threads, python, words)
            contenders[name] = stack.enter_context(Contender(name, command, setting.threads))
        yield contenders


def _say(entry: Result) -> None:
    line = f"{entry['what']:<6} {entry['model']:<5} d={entry['dim']:<3} {entry['optimizer'] or '':<16}"
    line += f" {entry['rows_per_second']:>10,.0f} rows/s"
    if entry["peer"] is not None:
        line += f"   {entry['peer']:<14} {entry['peer_rows_per_second']:>9,.0f}   {entry['ratio']:6.2f}x"
    print(line, flush=True)
