"""LightGBM (Ke et al., NeurIPS 2017, https://papers.nips.cc/paper/6907) as the baseline of AITM (KDD 2021, A.1,
https://arxiv.org/abs/2105.08489): a booster of binary trees for each task, on the ids of all impressions.

    o_t(x) = log(p̄_t / (1 - p̄_t)) + Σ_k tree_tk(x)        p̄_t: the rate of task t in training
    L_t = Σ_i softplus(o_ti) - y_ti o_ti

Unusual: no torch module; job.py calls `run` in the place of its stages. The rows are binned once for all tasks, block by block
from the int32 ids, so that no float copy of them ever exists. Numbers in metrics.json are seqmtl's own; LightGBM's only stop it.
A job that was cut off keeps the boosters that are whole, and begins the next one from its first tree. The last line of a booster's
file is its checksum, which LightGBM reads over: a file that is cut off would abort the process.
"""

from __future__ import annotations

import logging
import math
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmtl.data.downsample import SPLITS as THINNED
from seqmtl.data.downsample import chosen_downsample
from seqmtl.data.meta import Meta
from seqmtl.data.rows import Rows
from seqmtl.data.shards import Shards
from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.metrics import TaskMetrics
from seqmtl.runner import Trained
from seqmtl.tracking import Tracker
from seqmtl.types import Schema

log = logging.getLogger("seqmtl")

LEAST = {"num_leaves": 2, "max_bin": 2, "bagging_freq": 0, "min_data_in_leaf": 0, "rounds": 1, "patience": 1}
SHARES = ("learning_rate", "feature_fraction", "bagging_fraction")
OURS = ("rounds", "patience", "categorical")  # the others are LightGBM's own

CHECKSUM = "crc32="
BLOCK = 2**17  # rows that are float64 at a time
SECONDS_BETWEEN_LINES = 20.0


@dataclass(frozen=True)
class Boosting:
    """What conf/model/lightgbm.yaml may say; LightGBM's own names but for the last three.

    Args:
        rounds: trees at most; `patience`: rounds without a better validation AUC after which it stops (unstated in the paper).
        categorical: ids as categories, and not as numbers whose order means something.

    Raises:
        SeqmtlError: a value makes no sense.
    """

    learning_rate: float = 0.1
    num_leaves: int = 70
    max_bin: int = 2000
    feature_fraction: float = 0.9
    bagging_fraction: float = 0.7
    bagging_freq: int = 5
    min_data_in_leaf: int = 20
    rounds: int = 1000
    patience: int = 50
    categorical: bool = False

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SeqmtlError(f"model.{name} must be an integer of at least {least}, not {value!r}")
        for name in SHARES:
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
                raise SeqmtlError(f"model.{name} must be a number above 0 and at most 1, not {value!r}")
        if not isinstance(self.categorical, bool):
            raise SeqmtlError(f"model.categorical must be true or false, not {self.categorical!r}")

    @staticmethod
    def of(model: Mapping[str, Any]) -> Boosting:
        """The options of a config's model."""
        options = {key: value for key, value in model.items() if key not in ("name", "runner", "stages", "selection")}
        names = [field.name for field in fields(Boosting)]
        for key in options.keys() - names:
            raise SeqmtlError(f"model={model['name']} has no option '{key}'; it has {', '.join(names)}")
        return Boosting(**options)

    def params(self, seed: int, threads: int) -> dict[str, Any]:
        """LightGBM's; by columns, which it advises for many bins and which gives the same bits on any number of threads."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in OURS}
        fixed = {"objective": "binary", "boosting": "gbdt", "is_unbalance": False, "deterministic": True, "force_col_wise": True}
        return own | fixed | {"seed": seed, "num_threads": threads, "verbosity": -1}


class Ids(lgb.Sequence):
    """int32 ids (N,F) as LightGBM reads them, some rows at a time: float64 holds every id, float32 only those below 2^24."""

    batch_size = BLOCK

    def __init__(self, ids: NDArray[np.int32]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> NDArray[np.float64]:
        return self.ids[index].astype(np.float64)


def run(config: dict[str, Any], folder: Path, directory: Path, meta: Meta, schema: Schema, tracker: Tracker | None) -> Trained:
    """Grow the boosters that `folder` does not have yet (best.<task>.txt).

    Raises:
        SeqmtlError: bad options, multi-valued fields, or a task of one class in training.
    """
    name, trainer = config["model"]["name"], config["trainer"]
    options = Boosting.of(config["model"])
    if schema.bags:
        raise SeqmtlError(f"model={name} cannot use multi-valued fields (dataset.bags); take them out: dataset.bags=null")
    downsample = chosen_downsample(config["dataset"]["downsample"], meta)
    schema = schema.read(())
    tasks, threads = schema.task_names, trainer["threads"] or 0
    params = options.params(config["seed"], threads)
    files = {task: folder / f"best.{task}.txt" for task in tasks}
    missing = [task for task in tasks if not _whole(files[task])]
    log.info("LightGBM on the CPU, %s threads; to boost: %s", threads or "all", ", ".join(missing) or "nothing")
    lgb.register_logger(log)  # its warnings belong to job.log

    def rows(split: str) -> Rows:
        return Shards(directory, meta, schema, split, downsample if split in THINNED else None).load()

    def measured(split: str, prefix: str, given: bool) -> tuple[dict[str, float | None], Tensor]:
        of = rows(split)
        logits = _logits([lgb.Booster(model_file=files[task]) for task in tasks], of.fields, threads)
        metrics = TaskMetrics(schema, len(of), given)
        for some in _blocks(len(of)):
            metrics.update(logits[some], torch.from_numpy(of.y[some]).float())
        return {f"{prefix}/{key}": value for key, value in metrics.compute().items()}, logits

    started = time.monotonic()
    if missing:
        try:
            data, valid, labels = _binned(rows("train"), rows("valid"), schema, params, options.categorical)
            for task in missing:
                data.set_label(labels[0][task])
                valid.set_label(labels[1][task])
                text = _grow(task, data, valid, params, options, trainer["log_every"], tracker)
                if tracker is not None:
                    tracker.flush()  # what a resumed run does not compute again
                write_file(files[task], f"{text}{CHECKSUM}{zlib.crc32(text.encode())}\n".encode())
            del data, valid, labels
        except lgb.basic.LightGBMError as e:
            raise SeqmtlError(f"LightGBM refuses ({str(e).splitlines()[0]}); its options: seqmtl model={name} --cfg job") from e
    times = {"train_seconds": time.monotonic() - started} if missing == list(tasks) else {}
    trees = {f"trees/{task}": float(lgb.Booster(model_file=files[task]).num_trees()) for task in tasks}
    if tracker is not None:
        tracker.log(trees, step=0)
    return Trained(trees | measured("valid", "val", given=False)[0], lambda: measured("test", "test", given=True), None, times)


def _whole(file: Path) -> bool:
    """Whether a booster is there, with its checksum."""
    if not file.exists():
        return False
    text, _, checksum = file.read_bytes().rpartition(CHECKSUM.encode())
    whole = checksum == f"{zlib.crc32(text)}\n".encode()
    if not whole:
        log.warning("%s is damaged: it is boosted anew", file)
    return whole


Labels = dict[str, NDArray[np.int8]]


def _binned(
    train: Rows, valid: Rows, schema: Schema, params: dict[str, Any], categorical: bool
) -> tuple[lgb.Dataset, lgb.Dataset, tuple[Labels, Labels]]:
    """Both splits in LightGBM's bins, without their ids, and the labels (N,) of each task."""
    plain = all(re.fullmatch(r"[\w.-]+", name, re.ASCII) for name in schema.field_names)
    names: Any = list(schema.field_names) if plain else "auto"  # LightGBM refuses some characters
    categories = list(range(len(schema.fields))) if categorical else []
    labels = tuple({task: rows.y[:, t].copy() for t, task in enumerate(schema.task_names)} for rows in (train, valid))
    for task, y in labels[0].items():
        if y.min() == y.max():
            others = [other for other in schema.task_names if other != task]
            raise SeqmtlError(
                f"task '{task}' has no {'negative' if y.max() else 'positive'} row in training, so there is nothing to boost;"
                f" leave it out: dataset.tasks=[{','.join(others)}]"
            )
    data = lgb.Dataset(Ids(train.fields), params=params, feature_name=names, categorical_feature=categories).construct()
    data_valid = lgb.Dataset(Ids(valid.fields), params=params, reference=data, feature_name=names, categorical_feature=categories)
    return data, data_valid.construct(), (labels[0], labels[1])


def _grow(
    task: str,
    data: lgb.Dataset,
    valid: lgb.Dataset,
    params: dict[str, Any],
    options: Boosting,
    log_every: int,
    tracker: Tracker | None,
) -> str:
    """One booster as text, cut after its best round: by the validation AUC, or without one (one class only) by the LogLoss."""
    y = valid.get_label()
    defined = y.min() < y.max()
    booster = lgb.Booster(params | {"metric": ["auc", "binary_logloss"] if defined else ["binary_logloss"]}, data)
    booster.add_valid(valid, "valid")
    best, trees, waited, at_best = -math.inf, 0, 0, ""
    started = spoken = time.monotonic()
    for round_ in range(1, options.rounds + 1):
        booster.update()
        values = _named(booster.eval_valid(), "val", task)
        score = values[f"val/auc/{task}"] if defined else -values[f"val/logloss/{task}"]
        if score > best:
            best, trees, waited = score, booster.num_trees(), 0
            at_best = f"validation {'AUC' if defined else 'LogLoss'} {abs(best):.4f}"
        else:
            waited += 1
        if tracker is not None:
            if round_ % log_every == 0:
                values |= _named(booster.eval_train(), "train", task)
            tracker.log(values, round_)
        if waited == options.patience:
            break
        if time.monotonic() - spoken > SECONDS_BETWEEN_LINES:
            spoken = time.monotonic()
            log.info("%s: tree %d/%d  best: %d trees, %s", task, round_, options.rounds, trees, at_best)
    log.info("%s: %.1f s  %d rounds, the best of them: %d trees, %s", task, time.monotonic() - started, round_, trees, at_best)
    return booster.model_to_string(num_iteration=trees)


def _named(results: list[Any], split: str, task: str) -> dict[str, float]:
    short = {"auc": "auc", "binary_logloss": "logloss"}
    return {f"{split}/{short[metric]}/{task}": float(value) for _, metric, value, _ in results}


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def _logits(boosters: list[lgb.Booster], ids: NDArray[np.int32], threads: int) -> Tensor:
    """Log-odds, the base rate's included: ids (N,F) → (N,T) float32."""
    logits = torch.empty(len(ids), len(boosters))
    for some in _blocks(len(ids)):
        x = ids[some].astype(np.float64)
        for t, booster in enumerate(boosters):
            logits[some, t] = torch.from_numpy(np.asarray(booster.predict(x, raw_score=True, num_threads=threads)))
    return logits
