"""What runs predicted and what happened stand in one order, and what does not fit is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from conftest import ROWS, write_dataset
from seqmtl.data.meta import read_meta
from seqmtl.datamodule import DataModule, Reading
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run
from seqmtl.tables.predictions import Truth, labels, logits, oracle, oracle_metrics, probability, reliability

TASKS = ("click", "purchase")


@pytest.fixture
def many_shards(tmp_path: Path) -> Path:
    """Five test shards of several row groups each, whose names are in no order of the rows, some rows of no known user."""
    directory = write_dataset(tmp_path / "several")
    frame = pl.concat([pl.read_parquet(p) for p in sorted((directory / "test").glob("*.parquet"))])
    frame = frame.with_columns(_row=pl.Series(np.random.default_rng(1).permutation(10_000)[: len(frame)]))
    frame = frame.with_columns(user=pl.when(pl.col("user") < 4).then(0).otherwise("user").cast(pl.Int32))
    for path in (directory / "test").glob("*"):
        path.unlink()
    for name, start in zip("dbeca", range(0, 300, 60), strict=True):
        frame[start : start + 60].write_parquet(directory / "test" / f"{name}.parquet", row_group_size=23)
    return directory


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("storage", "ranks"), [("memory", 1), ("disk", 1), ("disk", 3)])
def test_the_order_is_that_in_which_a_run_tests(many_shards: Path, storage: str, ranks: int, named: bool) -> None:
    if named:  # in meta.json, in another order
        meta_json = json.loads((many_shards / "meta.json").read_text())
        meta_json["shards"] = {f"test/{name}.parquet": {"rows": 60, "bytes": 1} for name in "dbeca"}
        (many_shards / "meta.json").write_text(json.dumps(meta_json))
    meta = read_meta(many_shards)
    truth = labels(many_shards, meta, TASKS, "user")
    users, y = [], []
    for rank in range(ranks):
        module = DataModule(many_shards, meta, meta.schema(), 50, 0, rank, ranks, Reading(storage))
        for batch in module.test_dataloader():
            users += batch.fields[:, meta.schema().field_names.index("user")].tolist()
            y += batch.y.tolist()
    assert truth.users is not None
    assert [user if user < 40 else 0 for user in truth.users.tolist()] == users
    assert truth.y.tolist() == y
    by_row = pl.concat([pl.read_parquet(p) for p in (many_shards / "test").glob("*")])
    joined = pl.DataFrame({"_row": truth.rows, "y": truth.y[:, 1]}).join(by_row, on="_row", maintain_order="left")
    assert joined["y"].to_list() == joined["purchase"].to_list()
    assert (truth.rows.dtype, truth.y.dtype, truth.users.dtype) == (np.int64, np.int8, np.int64)


def test_rows_of_no_known_user_are_alone(many_shards: Path) -> None:
    truth = labels(many_shards, read_meta(many_shards), ["purchase"], "user")
    assert truth.users is not None
    assert truth.y.shape == (300, 1)
    unknown = truth.users[truth.users >= 40]
    assert len(unknown) > 10
    assert len(np.unique(unknown)) == len(unknown)
    assert truth.users.min() == 4
    assert labels(many_shards, read_meta(many_shards), ["purchase"], None).users is None


def test_a_field_of_users_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(SeqmtlError, match=r"dataset\.user=101 is no field of aliccp_sim; choose one of user, item, hour, or null"):
        labels(dataset, read_meta(dataset), TASKS, "101")


def test_shards_without_row_numbers(dataset: Path) -> None:
    path = dataset / "test" / "001.parquet"
    pl.read_parquet(path).drop("_row").write_parquet(path)
    with pytest.raises(SeqmtlError, match=r"001\.parquet has no column _row"):
        labels(dataset, read_meta(dataset), TASKS, None)


def saved(folder: Path, values: Any) -> Run:
    np.save(folder / "test_logits.npy", values)
    return Run(folder)


def test_logits_stay_on_the_disk(tmp_path: Path) -> None:
    truth = Truth(TASKS, np.arange(4), np.zeros((4, 2), np.int8))
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    found = logits(saved(tmp_path, values), truth)
    assert isinstance(found, np.memmap)
    assert found.tolist() == values.tolist()
    one = Truth(("purchase",), truth.rows, truth.y[:, 1:])
    assert logits(Run(tmp_path), one, TASKS).tolist() == [[1.0], [3.0], [5.0], [7.0]]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((5, 2), np.float32), "has 5 rows and 2 tasks, but the test split has 4 rows and the run 2 tasks"),
        (np.zeros((4, 3), np.float32), r"has 4 rows and 3 tasks.*prepared anew since\? The command that made"),
        (np.zeros(4, np.float32), "is no float32 table"),
        (np.zeros((4, 2)), "is no float32 table"),
        (b"no array", r"test_logits\.npy is damaged"),
        (b"", r"test_logits\.npy is damaged"),
        (None, r"test_logits\.npy is missing; the command that made this run tests it again"),
    ],
)
def test_logits_that_do_not_fit(tmp_path: Path, values: Any, says: str) -> None:
    if isinstance(values, bytes):
        (tmp_path / "test_logits.npy").write_bytes(values)
    elif values is not None:
        saved(tmp_path, values)
    with pytest.raises(SeqmtlError, match=says):
        logits(Run(tmp_path), Truth(TASKS, np.arange(4), np.zeros((4, 2), np.int8)))


def test_logits_that_are_cut_off(tmp_path: Path) -> None:
    run = saved(tmp_path, np.zeros((4, 2), np.float32))
    path = tmp_path / "test_logits.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SeqmtlError, match="is damaged"):
        logits(run, Truth(TASKS, np.arange(4), np.zeros((4, 2), np.int8)))


def test_a_task_that_a_run_has_not(tmp_path: Path) -> None:
    run = saved(tmp_path, np.zeros((4, 1), np.float32))
    with pytest.raises(SeqmtlError, match="has not predicted purchase; it has click"):
        logits(run, Truth(TASKS, np.arange(4), np.zeros((4, 2), np.int8)), ["click"])


def write_oracle(directory: Path, rows: Any, **columns: Any) -> None:
    (directory / "oracle").mkdir(exist_ok=True)
    pl.DataFrame({"_row": rows, **columns}).write_parquet(directory / "oracle" / "test.parquet")


def test_the_oracle_is_joined_by_row(many_shards: Path) -> None:
    truth = labels(many_shards, read_meta(many_shards), TASKS, None)
    assert oracle(many_shards, truth) is None
    for rows in (truth.rows, truth.rows[::-1], np.arange(10_000)):
        write_oracle(many_shards, rows, click=rows / 20_000, purchase=rows / 40_000)
        found = oracle(many_shards, truth)
        assert found is not None
        np.testing.assert_array_equal(found, np.stack([truth.rows / 20_000, truth.rows / 40_000], 1))


@pytest.mark.parametrize("damage", ["a row is missing", "none", "a task is missing", "no probability", "no Parquet"])
def test_an_oracle_that_does_not_fit(many_shards: Path, damage: str) -> None:
    truth = labels(many_shards, read_meta(many_shards), TASKS, None)
    rows = truth.rows[:-1] if damage == "a row is missing" else truth.rows[:0] if damage == "none" else truth.rows
    p = np.full(len(rows), 1.5 if damage == "no probability" else 0.5)
    write_oracle(many_shards, rows, click=p, **({} if damage == "a task is missing" else {"purchase": p}))
    if damage == "no Parquet":
        (many_shards / "oracle" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(SeqmtlError, match="damaged or of other rows"):
        oracle(many_shards, truth)


def test_the_metrics_of_the_oracle(many_shards: Path) -> None:
    meta = read_meta(many_shards)
    assert oracle_metrics(many_shards, meta, TASKS) is None
    truth = labels(many_shards, meta, TASKS, None)
    shuffled = np.random.default_rng(2).permutation(len(truth))
    p = np.random.default_rng(3).uniform(0.01, 0.99, len(truth))
    write_oracle(many_shards, truth.rows[shuffled], purchase=p[shuffled])
    assert oracle_metrics(many_shards, meta, TASKS) is None, "of click there is no truth"
    y = truth.of("purchase").y[:, 0]
    assert oracle_metrics(many_shards, meta, ["purchase"]) == {
        "test/auc/purchase": pytest.approx(roc_auc_score(y, p), abs=1e-6),
        "test/logloss/purchase": pytest.approx(log_loss(y, p), abs=1e-6),
    }
    (many_shards / "oracle" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(SeqmtlError, match="damaged or of other rows"):
        oracle_metrics(many_shards, meta, TASKS)


def test_reliability_by_tenths() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(size=5000).astype(np.float32)
    y = (rng.random(5000) < expit(score)).astype(np.int8)
    found = np.array(reliability(score, y))
    by_tenths = np.argsort(score).reshape(10, 500)
    np.testing.assert_array_equal(found[:, 2], 500)
    np.testing.assert_allclose(found[:, 0], expit(score[by_tenths].astype(np.float64)).mean(1), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], y[by_tenths].mean(1), rtol=1e-12)


def test_reliability_of_equal_predictions() -> None:
    score = np.repeat(np.float32([-1, 0, 1]), [1, 5, 2])
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.int8)
    found = reliability(score, y, 4)
    assert sum(rows for _, _, rows in found) == 8
    assert [[round(p, 4), rate, n] for p, rate, n in found] == [[0.2689, 0.0, 1.0], [0.5, 0.4, 5.0], [0.7311, 1.0, 2.0]]
    assert reliability(np.zeros(3, np.float32), y[:3]) == [[0.5, 0.0, 3.0]]
    assert reliability(np.float32([np.nan, 1]), y[:2]) == []
    assert reliability(score[:0], y[:0]) == []


def test_probabilities_do_not_overflow() -> None:
    x = np.float32([-1e30, -800, -1, 0, 1, 800, np.inf])
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(probability(x), expit(x.astype(np.float64)), rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["model=mmoe", "model=single_task", "model=lightgbm"])
def test_the_aucs_of_a_run_are_those_of_its_logits_and_labels(plan: Any, dataset: Path, model: str) -> None:
    from seqmtl import job

    path = dataset / "test" / "000.parquet"
    pl.read_parquet(path).write_parquet(path, row_group_size=37)
    run_dir = plan(model, "trainer.max_epochs=1")
    metrics = job.run(run_dir)
    truth = labels(dataset, read_meta(dataset), TASKS, "user")
    found = logits(Run(run_dir), truth)
    assert found.shape == (ROWS["test"], 2)
    for t, task in enumerate(TASKS):
        assert roc_auc_score(truth.y[:, t], found[:, t]) == pytest.approx(metrics[f"test/auc/{task}"], abs=1e-6)
