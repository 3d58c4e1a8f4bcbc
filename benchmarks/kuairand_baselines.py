"""What simple models reach on prepared KuaiRand shards: one-hot logistic regression and LightGBM, one model per task.

Every number that seqmtl's models reach on these rows should be seen beside these. LightGBM has the settings of AITM's
baseline (Xi et al., KDD 2021, https://arxiv.org/abs/2105.08489, A.1); what is unstated there, the number of rounds, is
chosen by early stopping on the validation AUC. The test split is read once per model, after its selection. AUC and
LogLoss are scikit-learn's, over all impressions.

    python benchmarks/kuairand_baselines.py --data data/kuairand --tasks click long_view --json baselines.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from seqmtl.data.meta import SPLITS, Meta, read_meta
from seqmtl.errors import SeqmtlError

Ids = npt.NDArray[np.int32]
Labels = npt.NDArray[np.int8]
Probabilities = npt.NDArray[np.float64]

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
BOOSTER = {
    "objective": "binary",
    "metric": "auc",
    "boosting": "gbdt",
    "learning_rate": 0.1,
    "feature_fraction": 0.9,
    "bagging_fraction": 0.7,
    "bagging_freq": 5,
    "max_bin": 2000,
    "num_leaves": 70,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
ROUNDS, PATIENCE = 1000, 50


@dataclass(frozen=True)
class Split:
    """Shapes: ids (N,F) int32 · y {task: (N,) int8}."""

    ids: Ids
    y: dict[str, Labels]


@dataclass(frozen=True)
class Row:
    """One line of the table; `chosen` is what the validation split decided."""

    task: str
    model: str
    test_auc: float
    test_logloss: float
    valid_auc: float
    chosen: str
    seconds: float


# Fits one task and gives the probabilities of a split, and what was chosen.
Fitted = tuple[Callable[[Ids], Probabilities], str]


def read_split(directory: Path, split: str, meta: Meta, tasks: Sequence[str]) -> Split:
    """One split, its shards in the order of their names.

    Raises:
        SeqmtlError: no shards, or other rows than meta.json says.
    """
    shards = sorted((directory / split).glob("*.parquet"))
    frame = pl.concat([pl.read_parquet(shard, columns=[*meta.fields, *tasks]) for shard in shards]) if shards else None
    if frame is None or len(frame) != meta.rows[split]:
        found = 0 if frame is None else len(frame)
        raise SeqmtlError(f"{directory / split} has {found} rows, meta.json says {meta.rows[split]}; prepare it again")
    return Split(
        frame.select(list(meta.fields)).to_numpy().astype(np.int32), {t: frame[t].to_numpy().astype(np.int8) for t in tasks}
    )


def one_hot(ids: Ids, sizes: Sequence[int]) -> sparse.csr_matrix:
    """(N,F) ids → (N,Σsizes), one 1 per field; id 0 (unknown) is a level like the others."""
    columns = ids + np.cumsum([0, *sizes[:-1]], dtype=np.int32)
    rows, fields = ids.shape
    ends = np.arange(0, rows * fields + 1, fields, dtype=np.int32)
    return sparse.csr_matrix((np.ones(rows * fields), columns.ravel(), ends), shape=(rows, sum(sizes)))


def logistic_regression(train: Split, valid: Split, task: str, sizes: Sequence[int]) -> Fitted:
    """L2-regularised on one-hot ids; the strength C is the one of `STRENGTHS` with the best validation AUC."""
    x, x_valid = one_hot(train.ids, sizes), one_hot(valid.ids, sizes)

    def fit(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, solver="newton-cg", max_iter=200).fit(x, train.y[task])

    models = {strength: fit(strength) for strength in STRENGTHS}
    best = max(STRENGTHS, key=lambda c: roc_auc_score(valid.y[task], models[c].decision_function(x_valid)))
    return lambda ids: models[best].predict_proba(one_hot(ids, sizes))[:, 1], f"C = {best:g}"


def boosted_trees(train: Split, valid: Split, task: str, seed: int, threads: int, categorical: bool) -> Fitted:
    """LightGBM on the ids, as numbers or as categories."""
    features = list(range(train.ids.shape[1])) if categorical else "auto"
    data = lgb.Dataset(train.ids, train.y[task], categorical_feature=features, free_raw_data=False)
    booster = lgb.train(
        BOOSTER | {"seed": seed, "num_threads": threads},
        data,
        ROUNDS,
        valid_sets=[lgb.Dataset(valid.ids, valid.y[task], reference=data, categorical_feature=features)],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    return lambda ids: np.asarray(booster.predict(ids)), f"{booster.best_iteration} rounds"


def baselines(directory: Path, tasks: Sequence[str], seed: int, threads: int) -> Iterator[Row]:
    """Fit and test each model on each task.

    Raises:
        SeqmtlError: no such task, or a split in which a task has one class only.
    """
    meta = read_meta(directory)
    meta.schema().keep(tasks)
    splits = {split: read_split(directory, split, meta, tasks) for split in SPLITS}
    train, valid, test = (splits[split] for split in SPLITS)
    for split, task in ((split, task) for split in SPLITS for task in tasks):
        if len(np.unique(splits[split].y[task])) < 2:
            raise SeqmtlError(f"task '{task}' has one class only in {split}, so it has no AUC there; leave it out of --tasks")
    sizes = list(meta.fields.values())
    models: dict[str, Callable[[str], Fitted]] = {
        "logistic regression": lambda task: logistic_regression(train, valid, task, sizes),
        "LightGBM, numeric ids": lambda task: boosted_trees(train, valid, task, seed, threads, categorical=False),
        "LightGBM, categorical": lambda task: boosted_trees(train, valid, task, seed, threads, categorical=True),
    }
    for task in tasks:
        for name, fit in models.items():
            start = time.perf_counter()
            predict, chosen = fit(task)
            seconds = time.perf_counter() - start
            p = predict(test.ids)
            yield Row(
                task=task,
                model=name,
                test_auc=float(roc_auc_score(test.y[task], p)),
                test_logloss=float(log_loss(test.y[task], p)),
                valid_auc=float(roc_auc_score(valid.y[task], predict(valid.ids))),
                chosen=chosen,
                seconds=seconds,
            )


def table(rows: Sequence[Row]) -> str:
    """Aligned Markdown."""
    head = ("task", "model", "test AUC", "test LogLoss", "valid AUC", "chosen on valid", "seconds")
    cells = [
        (r.task, r.model, f"{r.test_auc:.4f}", f"{r.test_logloss:.4f}", f"{r.valid_auc:.4f}", r.chosen, f"{r.seconds:.1f}")
        for r in rows
    ]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, cells)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/kuairand"), help="prepared dataset (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", default=["click", "long_view"], help="default: click long_view")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of LightGBM; the result may depend on it")
    parser.add_argument("--json", type=Path, help="also write the rows here, unrounded")
    args = parser.parse_args(argv)
    try:
        rows = []
        for row in baselines(args.data, args.tasks, args.seed, args.threads):
            print(f"{row.task}: {row.model} done in {row.seconds:.1f} s", file=sys.stderr)
            rows.append(row)
    except FileNotFoundError:
        print(f"{args.data}/meta.json does not exist; prepare it: seqmtl prepare dataset={args.data.name}", file=sys.stderr)
        return 1
    except SeqmtlError as e:
        print(e, file=sys.stderr)
        return 1
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
