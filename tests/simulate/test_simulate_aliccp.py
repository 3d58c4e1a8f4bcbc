"""The simulator: its rates, its truth, its signal, its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from seqmtl.errors import SeqmtlError
from seqmtl.simulate import aliccp
from seqmtl.simulate.aliccp import simulate

SIZE: dict[str, Any] = {"train_rows": 30_000, "test_rows": 20_000}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("raw") / "sim"
    simulate(directory, **SIZE)
    return directory


def labels(raw: Path, part: str) -> pl.DataFrame:
    names = ["sample", "click", "purchase", "index", "n", "features"]
    table = pl.read_csv(raw / f"sample_skeleton_{part}.csv", has_header=False, new_columns=names)
    return table.select("click", "purchase")


def test_same_seed_same_bytes(raw: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", **SIZE)
    names = sorted(p.name for p in raw.iterdir())
    assert len(names) == 6
    for name in names:
        assert (raw / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    simulate(tmp_path / "other", **SIZE, seed=1)
    assert (raw / "sample_skeleton_train.csv").read_bytes() != (tmp_path / "other" / "sample_skeleton_train.csv").read_bytes()


@pytest.mark.parametrize("part", ["train", "test"])
def test_rates_follow_the_oracle(raw: Path, part: str) -> None:
    y, p = labels(raw, part), pl.read_parquet(raw / f"oracle_{part}.parquet")
    assert p["_row"].to_list() == list(range(len(y)))
    assert y.filter(pl.col("purchase") > pl.col("click")).is_empty()
    assert (p["purchase"] < p["click"]).all()
    for task, rate in (("click", 0.0389), ("purchase", 0.008)):
        error = 3 * np.sqrt((p[task] * (1 - p[task])).sum())  # three standard errors of the number of positives
        assert abs(y[task].sum() - p[task].sum()) < error  # so PCOC of the oracle is 1
        assert abs(p[task].sum() - rate * len(y)) < 0.1 * error
        assert abs(y[task].sum() - rate * len(y)) < error


def test_the_oracle_ranks_well(raw: Path) -> None:
    y, p = labels(raw, "test"), pl.read_parquet(raw / "oracle_test.parquet")
    assert roc_auc_score(y["click"], p["click"]) == pytest.approx(0.78, abs=0.03)  # the oracle_auc asked for, and noise
    assert 0.7 < roc_auc_score(y["purchase"], p["purchase"]) < 0.97


def test_rates_of_the_paper_and_others(tmp_path: Path) -> None:
    for rates, wanted in (("paper", (0.0389, 0.0002)), ({"click": 0.3, "purchase": 0.1}, (0.3, 0.1))):
        simulate(tmp_path / "r", rates=rates, train_rows=5000, test_rows=100)  # type: ignore[arg-type]
        p = pl.read_parquet(tmp_path / "r" / "oracle_train.parquet")
        for task, rate in zip(("click", "purchase"), wanted, strict=True):
            assert abs(p[task].mean() - rate) < 0.3 * np.sqrt(rate * (1 - rate) / 5000)  # type: ignore[operator]


def log_odds(p: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    click, given = p["click"].to_numpy(), (p["purchase"] / p["click"]).to_numpy()
    return np.log(click / (1 - click)), np.log(given / (1 - given))


def test_relatedness_and_strength(tmp_path: Path) -> None:
    correlation = []
    for relatedness in (-1.0, 0.0, 0.5, 1.0):
        simulate(tmp_path / "r", relatedness=relatedness, oracle_auc=0.7, train_rows=20_000, test_rows=10)
        click, given = log_odds(pl.read_parquet(tmp_path / "r" / "oracle_train.parquet"))
        correlation.append(np.corrcoef(click, given)[0, 1])
    assert correlation[0] == pytest.approx(-1, abs=1e-6)
    assert correlation[-1] == pytest.approx(1, abs=1e-6)
    assert correlation == sorted(correlation)
    simulate(tmp_path / "r", oracle_auc=0.5, train_rows=1000, test_rows=10)
    assert log_odds(pl.read_parquet(tmp_path / "r" / "oracle_train.parquet"))[0].std() < 1e-3


def test_the_format(raw: Path) -> None:
    lines = (raw / "sample_skeleton_train.csv").read_text().splitlines()
    assert len(lines) == SIZE["train_rows"]
    common = dict(line.split(",", 1) for line in (raw / "common_features_train.csv").read_text().splitlines())
    own = [f.split("\x02")[0] for f in lines[0].split(",")[5].split("\x01")]
    assert own == ["205", "206", "207", "216", "508", "509", "702", "853", "301", "210", "210"]
    index = lines[0].split(",")[3]
    shared = [f.split("\x02")[0] for f in common[index].split(",")[1].split("\x01")]
    assert shared[:9] == ["101", "121", "122", "124", "125", "126", "127", "128", "129"]
    assert set(shared[9:]) == {"109_14", "110_14", "127_14", "150_14"}


@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_drift_parts_training_and_test(tmp_path: Path, drift: float) -> None:
    """At drift 2 what was likely is unlikely, at the same rates."""
    simulate(tmp_path, train_rows=3000, test_rows=3000, drift=drift)
    options = aliccp.Options(3000, 3000, 0.5, 0.78, 0.5, 0.1, 0.8, 100, 200, drift, 0)
    users, items = aliccp.population(options)
    test, train = (aliccp.Truth(options, [0.0389, 0.008], users, items, part, 3000) for part in (1, 0))
    (played,) = test.play()
    blocks = aliccp.phi(played.met, users, items)
    click, given = log_odds(pl.read_parquet(tmp_path / "oracle_test.parquet"))
    for task, odds in enumerate((click, given)):
        assert np.corrcoef(odds, test.weights.signal(blocks, 1)[:, task])[0, 1] == pytest.approx(1, abs=1e-6)
        same = np.corrcoef(odds, train.weights.signal(blocks, 0)[:, task])[0, 1]
        assert same == pytest.approx(1 - drift, abs=1e-6)


def test_borders_of_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(aliccp, "CHUNK", 1000)
    simulate(tmp_path, train_rows=5432, test_rows=1000, rows_per_user=2, rates={"click": 0.3, "purchase": 0.1})
    lines = [line.split(",") for line in (tmp_path / "sample_skeleton_train.csv").read_text().splitlines()]
    assert [int(line[0]) for line in lines] == list(range(1, 5433))
    common = [line.split(",") for line in (tmp_path / "common_features_train.csv").read_text().splitlines()]
    assert len(common) > 1000  # users, in more than one chunk too
    assert {line[0] for line in common} == {line[3] for line in lines}
    assert len({line[0] for line in common}) == len(common)
    assert {len(line[2].split("\x01")) for line in common} == {int(common[0][1])}
    p = pl.read_parquet(tmp_path / "oracle_train.parquet")
    assert p["_row"].to_list() == list(range(5432))
    for task, column in (("click", 1), ("purchase", 2)):
        happened = np.array([line[column] == "1" for line in lines])
        assert abs(happened.sum() - p[task].sum()) < 3 * np.sqrt((p[task] * (1 - p[task])).sum())
        assert roc_auc_score(happened, p[task]) > 0.65  # rows and truth in one order


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_rows": -1}, "train_rows must be above 0"),
        ({"test_rows": 0}, "test_rows must be above 0"),
        ({"train_rows": 10.5}, "train_rows must be a whole number"),
        ({"rates": {"click": 1.2, "purchase": 0.1}}, r"rates\.click must lie between 0 and 1"),
        ({"rates": {"click": 0.1, "purchase": 0.2}}, "without which there is none"),
        ({"rates": {"click": 0.1}}, "rates must be default, paper or"),
        ({"rates": "papre"}, "rates must be default, paper or"),
        ({"relatedness": 2}, "relatedness must lie between -1 and 1"),
        ({"oracle_auc": "high"}, "oracle_auc must be a number"),
        ({"drift": 3}, "drift must lie between 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        simulate(tmp_path / "sim", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [60_000, 200_000])
def test_the_signal_can_be_learned(tmp_path: Path, rows: int) -> None:
    """One-hot logistic regression is clearly above chance and below the oracle."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    from seqmtl.prepare.aliccp import FIELDS, prepare

    simulate(tmp_path / "raw", train_rows=rows, test_rows=20_000)
    prepare(tmp_path / "raw", tmp_path / "data", min_count=1)
    train, test = (pl.read_parquet(tmp_path / "data" / split / "*.parquet") for split in ("train", "test"))
    oracle = pl.read_parquet(tmp_path / "data" / "oracle" / "test.parquet")
    encoder = OneHotEncoder(handle_unknown="ignore").fit(train.select(FIELDS).to_numpy())
    x, x_test = (encoder.transform(frame.select(FIELDS).to_numpy()) for frame in (train, test))
    for task in ("click", "purchase"):
        model = LogisticRegression(C=0.1, max_iter=300).fit(x, train[task].to_numpy())
        learned = roc_auc_score(test[task], model.decision_function(x_test))
        best = roc_auc_score(test[task], oracle[task])
        print(rows, task, learned, best)
        assert 0.65 < learned < best - 0.03
