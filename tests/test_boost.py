"""model=lightgbm: in the same frame as the other models, and nothing else than LightGBM called directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import log_loss, roc_auc_score

from boost_cases import SMALL, TASKS, columns, points, rewrite, small
from conftest import FIELDS, write_dataset
from seqmtl import boost, job
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def boosted(plan: Any) -> Any:
    return small(plan)


def test_what_a_run_leaves(boosted: Any, plan: Any, dataset: Path) -> None:
    run_dir = boosted(trainer={"log_every": 2})
    metrics = job.run(run_dir)
    assert metrics == json.loads((run_dir / "metrics.json").read_text())
    status = json.loads((run_dir / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["times"]["train_seconds"] > 0
    assert status["times"]["test_seconds"] > 0
    assert {p.name for p in run_dir.iterdir()} == {
        *("config.yaml", "status.json", "metrics.json", "test_logits.npy", "mlflow_run_id", "job.log", ".lock"),
        *("mlflow.jsonl", "mlflow.sent"),
        *("best.click.txt", "best.purchase.txt"),
    }
    logits = np.load(run_dir / "test_logits.npy")
    assert logits.dtype == np.float32
    for split, prefix in (("test", "test"), ("valid", "val")):
        y = columns(dataset, split, TASKS)
        for t, task in enumerate(TASKS):
            booster = lgb.Booster(model_file=run_dir / f"best.{task}.txt")
            z = booster.predict(columns(dataset, split, tuple(FIELDS)), raw_score=True)
            p = 1 / (1 + np.exp(-z))
            if split == "test":
                assert logits[:, t] == pytest.approx(z, rel=1e-6)
                assert metrics[f"test/pcoc/{task}"] == pytest.approx(p.mean() / y[:, t].mean(), rel=1e-6)
            assert metrics[f"{prefix}/auc/{task}"] == pytest.approx(roc_auc_score(y[:, t], z), abs=1e-12)
            assert metrics[f"{prefix}/logloss/{task}"] == pytest.approx(log_loss(y[:, t], p), rel=1e-6)
            assert metrics[f"trees/{task}"] == booster.num_trees()
    assert metrics["params"] is metrics["params_mb"] is None
    logged = points(run_dir)
    for task in TASKS:
        rounds = logged[f"val/auc/{task}"]
        assert rounds == logged[f"val/logloss/{task}"] == list(range(1, len(rounds) + 1))
        assert logged[f"train/logloss/{task}"] == logged[f"train/auc/{task}"] == rounds[1::2]
    assert "click: " in (run_dir / "job.log").read_text()
    assert job.run(run_dir) == metrics, "finished: read, not run"
    # Every name that a torch module's run has, but of terms of the loss, which it has not.
    others = job.run(plan("model=mmoe", "trainer.max_epochs=1", name="mmoe"))
    assert {k for k in others if not k.startswith("train/")} == {k for k in metrics if not k.startswith("trees/")}


@pytest.mark.parametrize("categorical", [False, True])
def test_it_is_lightgbm_called_directly(boosted: Any, dataset: Path, categorical: bool) -> None:
    """Fields, labels, options, early stopping and the restored best iteration; the columns are read by Polars."""
    run_dir = boosted("seed=3", model={"categorical": categorical, "rounds": 60})
    job.run(run_dir)
    logits = np.load(run_dir / "test_logits.npy")
    options = {"learning_rate": 0.3, "num_leaves": 7, "feature_fraction": 0.9, "bagging_fraction": 0.7, "bagging_freq": 5}
    options |= {"objective": "binary", "metric": "auc", "max_bin": 2000, "seed": 3, "num_threads": 1, "verbosity": -1}
    options |= {"deterministic": True, "force_col_wise": True}
    x = {split: columns(dataset, split, tuple(FIELDS)).astype(float) for split in ("train", "valid", "test")}
    for task in TASKS:
        y = {split: columns(dataset, split, (task,))[:, 0] for split in ("train", "valid")}
        data = lgb.Dataset(x["train"], y["train"], categorical_feature=[0, 1, 2] if categorical else "auto")
        valid = lgb.Dataset(x["valid"], y["valid"], reference=data)
        booster = lgb.train(options, data, 60, [valid], callbacks=[lgb.early_stopping(5, verbose=False)])
        assert 1 < booster.best_iteration < 55, "or nothing of the stopping is tested"
        expected = booster.predict(x["test"], raw_score=True)
        assert np.array_equal(logits[:, TASKS.index(task)], expected.astype(np.float32))


def test_what_can_be_told_apart_is(boosted: Any, dataset: Path) -> None:
    clicks, buys = pl.col("user") < 20, (pl.col("user") < 20) & (pl.col("item") < 15)
    rewrite(dataset, lambda _, frame: frame.with_columns(click=clicks.cast(pl.Int8), purchase=buys.cast(pl.Int8)))
    metrics = job.run(boosted())
    assert [metrics[f"test/auc/{task}"] for task in TASKS] == [1.0, 1.0]
    assert metrics["test/auc_given/purchase"] == 1.0


def test_nothing_is_learnt_from_permuted_labels(tmp_path: Path, boosted: Any) -> None:
    directory = write_dataset(tmp_path / "permuted" / "aliccp_sim", rows={"train": 4000, "valid": 1000, "test": 4000})
    rng = np.random.default_rng(0)

    def permuted(split: str, frame: pl.DataFrame) -> pl.DataFrame:
        order = rng.permutation(len(frame))
        return frame.with_columns(**{task: frame[task].gather(order) for task in TASKS})

    rewrite(directory, permuted)
    run_dir = boosted()
    config = job.read_config(run_dir) | {"data_dir": str(directory.parent)}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = job.run(run_dir)
    y = columns(directory, "test", TASKS)
    for t, task in enumerate(TASKS):
        positives, negatives = y[:, t].sum(), (1 - y[:, t]).sum()
        error = ((positives + negatives + 1) / (12 * positives * negatives)) ** 0.5  # of an AUC where nothing is told apart
        assert metrics[f"test/auc/{task}"] == pytest.approx(0.5, abs=4 * error)


@pytest.mark.parametrize("patience", [1, 4])
def test_it_stops_after_rounds_that_help_no_more(boosted: Any, patience: int) -> None:
    run_dir = boosted(model={"rounds": 500, "patience": patience})
    metrics = job.run(run_dir)
    logged = points(run_dir)
    for task in TASKS:
        assert len(logged[f"val/auc/{task}"]) == metrics[f"trees/{task}"] + patience < 500


def test_it_ends_after_the_given_rounds(boosted: Any) -> None:
    run_dir = boosted(model={"rounds": 3, "patience": 50})
    metrics = job.run(run_dir)
    assert len(points(run_dir)["val/auc/click"]) == 3
    assert metrics["trees/click"] in (1, 2, 3)


def test_the_same_seed_gives_the_same_bits_on_any_threads_and_another_does_not(boosted: Any) -> None:
    runs = [
        boosted(f"seed={s}", name=f"{s}-{n}-{i}", trainer={"threads": n})
        for i, (s, n) in enumerate(((1, 1), (1, 1), (1, 2), (2, 1)))
    ]
    metrics = [job.run(run) for run in runs]
    logits = [(run / "test_logits.npy").read_bytes() for run in runs]
    assert logits[0] == logits[1] == logits[2] != logits[3]
    assert metrics[0] == metrics[1] == metrics[2] != metrics[3]


def test_chosen_tasks_and_fields_are_read_in_their_order(boosted: Any, dataset: Path) -> None:
    both = boosted(name="both")
    job.run(both)
    one = boosted(name="one", dataset={"tasks": ["purchase"]})
    metrics = job.run(one)
    assert "test/auc/click" not in metrics
    assert (one / "best.purchase.txt").read_text().split("parameters:")[0] == (
        (both / "best.purchase.txt").read_text().split("parameters:")[0]
    )
    few = boosted(name="few", dataset={"fields": ["item", "hour"]})
    job.run(few)
    assert lgb.Booster(model_file=few / "best.click.txt").feature_name() == ["item", "hour"]


def test_any_name_of_a_field_will_do(boosted: Any, dataset: Path) -> None:
    """LightGBM refuses a colon, and makes an underscore of a blank."""
    expected = job.run(boosted(name="plain"))
    names = {"user": "user: id", "item": "Ware", "hour": '"hour"'}
    meta = json.loads((dataset / "meta.json").read_text())
    meta["fields"] = {names[name]: size for name, size in meta["fields"].items()}
    (dataset / "meta.json").write_text(json.dumps(meta))
    rewrite(dataset, lambda _, frame: frame.rename(names))
    assert job.run(boosted(name="odd")) == expected


def test_negatives_are_left_out_of_training_and_not_of_the_test(boosted: Any, dataset: Path) -> None:
    meta = json.loads((dataset / "meta.json").read_text())
    positives = {split: {t: int(columns(dataset, split, (t,)).sum()) for t in TASKS} for split in ("train", "valid", "test")}
    (dataset / "meta.json").write_text(json.dumps(meta | {"positives": positives}))
    whole = job.run(boosted(name="whole"))
    run_dir = boosted(name="thin", dataset={"downsample": {"task": "click", "rate": 0.9, "seed": 0}})
    thin = job.run(run_dir)
    assert np.load(run_dir / "test_logits.npy").shape == (300, 2)
    assert 0.8 < whole["test/pcoc/click"] < 1.2 < thin["test/pcoc/click"], "it predicts the rate that it has seen"


def test_one_class_in_training_is_told_in_words(boosted: Any, dataset: Path) -> None:
    none = pl.lit(0, pl.Int8)
    rewrite(dataset, lambda split, frame: frame.with_columns(purchase=none) if split == "train" else frame)
    run_dir = boosted()
    with pytest.raises(SeqmtlError, match=r"task 'purchase' .*no positive.*dataset\.tasks=\[click\]"):
        job.run(run_dir)
    assert Run(run_dir).status()["state"] == "failed"


def test_without_a_validation_auc_the_logloss_decides(boosted: Any, dataset: Path) -> None:
    none = pl.lit(0, pl.Int8)
    rewrite(dataset, lambda split, frame: frame.with_columns(purchase=none) if split == "valid" else frame)
    run_dir = boosted()
    metrics = job.run(run_dir)
    assert metrics["val/auc/purchase"] is None
    assert metrics["val/logloss/purchase"] < 0.5
    logged = points(run_dir)
    assert "val/auc/purchase" not in logged
    assert len(logged["val/logloss/purchase"]) == min(30, metrics["trees/purchase"] + SMALL["patience"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"rounds": 0}, r"model\.rounds must be an integer of at least 1, not 0"),
        ({"patience": "x"}, r"model\.patience must be an integer of at least 1, not 'x'"),
        ({"categorical": 1}, r"model\.categorical must be true or false"),
        ({"num_leaves": 1}, r"model\.num_leaves must be an integer of at least 2, not 1"),
        ({"max_bin": None}, r"model\.max_bin must be an integer of at least 2, not None"),
        ({"learning_rate": "abc"}, r"model\.learning_rate must be a number above 0"),
        ({"feature_fraction": 1.5}, r"model\.feature_fraction must be .* at most 1"),
        ({"dart": True}, r"model=lightgbm has no option 'dart'"),
    ],
)
def test_bad_options_are_told_in_words(boosted: Any, model: dict[str, Any], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        job.run(boosted(model=model))


def test_multi_valued_fields_are_refused(boosted: Any, dataset: Path) -> None:
    meta = json.loads((dataset / "meta.json").read_text())
    (dataset / "meta.json").write_text(json.dumps(meta | {"bags": {"words": {"size": 30, "items": 30}}}))
    with pytest.raises(SeqmtlError, match=r"model=lightgbm cannot use multi-valued fields .*dataset\.bags=null"):
        job.run(boosted(dataset={"bags": {"words": 3}}))


def test_ids_beyond_the_integers_of_float32_stay_apart() -> None:
    ids = boost.Ids(np.array([[2**24, 5], [2**24 + 1, 6]], np.int32))
    assert len(ids) == 2
    assert ids[0][0] != ids[1][0]
    assert ids[0:2].tolist() == [[2.0**24, 5.0], [2.0**24 + 1, 6.0]]
