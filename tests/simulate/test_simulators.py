"""What holds for every simulator of a log: its rates, its truth, its chunks, its knobs, its refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from seqmtl.errors import SeqmtlError
from seqmtl.simulate import ecommerce, finance, raw_files, tenrec

ROWS = 20_000
MODULES = {"tenrec": tenrec, "finance": finance, "ecommerce": ecommerce}
TASKS = {"tenrec": tenrec.TASKS, "finance": tuple(finance.PARENTS), "ecommerce": tuple(ecommerce.PARENTS)}


def table(raw: Path) -> pl.DataFrame:
    """The labels and what else stands in the raw rows."""
    if (raw / tenrec.FILE).exists():
        return pl.read_csv(raw / tenrec.FILE, infer_schema=False).with_columns(
            pl.col("user_id", "item_id", *tenrec.TASKS).cast(pl.Int64)
        )
    return pl.concat([pl.read_parquet(path) for path in sorted(raw.glob("log-*.parquet"))])


def oracle(raw: Path) -> pl.DataFrame:
    (path,) = raw.glob("oracle_*.parquet")
    return pl.read_parquet(path)


def contents(raw: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in raw.iterdir()}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The raw files of a simulator with its defaults, ROWS rows, made once."""
    root = tmp_path_factory.mktemp("simulated")

    def make(name: str) -> Path:
        if not (root / name).exists():
            MODULES[name].simulate(root / name, rows=ROWS)
        return root / name

    return make


@pytest.mark.parametrize("name", MODULES)
def test_the_files_and_their_rows(simulated: Callable[[str], Path], name: str) -> None:
    raw = simulated(name)
    files = ["QK-video.csv", "oracle_QK-video.parquet"] if name == "tenrec" else ["log-00000.parquet", "oracle_log.parquet"]
    assert sorted(contents(raw)) == files
    assert len(table(raw)) == ROWS
    assert oracle(raw)["_row"].to_list() == list(range(ROWS))
    assert oracle(raw).schema == {"_row": pl.Int64} | dict.fromkeys(TASKS[name], pl.Float64)


@pytest.mark.parametrize("name", MODULES)
def test_rates_and_calibration(simulated: Callable[[str], Path], name: str) -> None:
    y, p = table(simulated(name)), oracle(simulated(name))
    for task, rate in MODULES[name].RATES["default"].items():
        error = np.sqrt((p[task] * (1 - p[task])).sum())
        assert abs(y[task].sum() - p[task].sum()) < 3 * error, task  # PCOC is 1
        assert abs(y[task].sum() - rate * ROWS) < 3 * np.sqrt(rate * (1 - rate) * ROWS), task
        assert roc_auc_score(y[task], p[task]) > 0.7, task
    first = TASKS[name][0]
    assert roc_auc_score(y[first], p[first]) == pytest.approx(0.75 if name == "finance" else 0.78, abs=0.025)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("tail", ["likely", "unlikely"])
def test_calibrated_also_among_the_likely_and_the_unlikely(simulated: Callable[[str], Path], name: str, tail: str) -> None:
    y, p = table(simulated(name)), oracle(simulated(name))
    for task in TASKS[name]:
        p_tail = p[task].sort(descending=tail == "likely")[: ROWS // 2]
        y_tail = y[task].gather(p[task].arg_sort(descending=tail == "likely"))[: ROWS // 2]
        assert abs(y_tail.sum() - p_tail.sum()) < 3.5 * np.sqrt((p_tail * (1 - p_tail)).sum()) + 1, task


@pytest.mark.parametrize("name", ["finance", "ecommerce"])
def test_a_step_needs_its_parent(simulated: Callable[[str], Path], name: str) -> None:
    y, p = table(simulated(name)), oracle(simulated(name))
    for task, parent in MODULES[name].PARENTS.items():
        if parent is not None:
            assert not y.filter((pl.col(parent) == 0) & (pl.col(task) == 1)).height
            assert (p[task] < p[parent]).all()


@pytest.mark.parametrize("name", ["finance", "ecommerce"])
def test_the_log_is_in_time_order_and_of_whole_numbers(simulated: Callable[[str], Path], name: str) -> None:
    log = table(simulated(name))
    assert log["time"].is_sorted()
    assert (log["hour"] == log["time"] // 3600 % 24).all()
    fields = [c for c in log.columns if c not in ("time", "hour", *TASKS[name])]
    assert log.select(fields).min().transpose().to_series().to_list() == [1] * len(fields)
    assert set(log.select(fields).dtypes) == {pl.Int32}
    assert set(log.select(TASKS[name]).dtypes) == {pl.Int8}


@pytest.mark.parametrize("name", MODULES)
def test_same_seed_same_bytes_and_what_changes_them(tmp_path: Path, name: str) -> None:
    simulate = MODULES[name].simulate
    simulate(tmp_path / "a", rows=500, rows_per_user=10)
    simulate(tmp_path / "b", rows=500, rows_per_user=10)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for i, other in enumerate(({"seed": 1}, {"drift": 0.3})):
        simulate(tmp_path / f"other{i}", rows=500, rows_per_user=10, **other)
        for file, bytes_ in contents(tmp_path / f"other{i}").items():
            assert bytes_ != (tmp_path / "a" / file).read_bytes(), (other, file)


def chunks_of(monkeypatch: pytest.MonkeyPatch, module: ModuleType, rows: int) -> None:
    monkeypatch.setattr(module, "CHUNK", rows)
    monkeypatch.setattr(raw_files, "LOG_ROWS", 4 * rows)


@pytest.mark.parametrize("name", MODULES)
def test_borders_of_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    chunks_of(monkeypatch, MODULES[name], 1000)
    MODULES[name].simulate(tmp_path, rows=9537, rows_per_user=20)
    y, p = table(tmp_path), oracle(tmp_path)
    assert len(y) == 9537
    assert p["_row"].to_list() == list(range(9537))
    for task in TASKS[name]:
        assert abs(y[task].sum() - p[task].sum()) < 3 * np.sqrt((p[task] * (1 - p[task])).sum())
    if name == "tenrec":
        assert y["user_id"].rle().struct.field("value").n_unique() == len(y["user_id"].rle())  # nobody is torn apart
    else:
        assert [len(pl.read_parquet(path)) for path in sorted(tmp_path.glob("log-*"))] == [4000, 4000, 1537]
        assert y["time"].is_sorted()
        assert y["time"].diff().max() == y["time"].diff().drop_nulls().min() + 1  # evenly spread, over borders too


@pytest.mark.parametrize("name", MODULES)
def test_rates_of_the_paper_and_others(tmp_path: Path, name: str) -> None:
    some = dict(zip(TASKS[name], (0.4, 0.2, 0.15, 0.1), strict=True))
    for rates, wanted in (("paper", MODULES[name].RATES["paper"]), (some, some)):
        MODULES[name].simulate(tmp_path, rows=3000, rows_per_user=10, rates=rates)
        for task, rate in wanted.items():
            assert abs(oracle(tmp_path)[task].mean() - rate) < 0.5 * np.sqrt(rate * (1 - rate) / 3000), task  # type: ignore[operator]


@pytest.mark.parametrize("name", MODULES)
def test_related_tasks_go_together(tmp_path: Path, name: str) -> None:
    """Of P(second step | first), not of the products, which go together in any case."""
    correlation = []
    for relatedness in (-1.0, 0.0, 1.0):
        MODULES[name].simulate(tmp_path, rows=3000, rows_per_user=10, relatedness=relatedness)
        p = oracle(tmp_path)
        first, second = (p[task].to_numpy() for task in TASKS[name][:2])
        correlation.append(np.corrcoef(np.log(first / (1 - first)), np.log(second / first))[0, 1])
    assert correlation[0] < -0.5
    assert correlation[0] < correlation[1] - 0.2 < correlation[2] - 0.4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 0}, "rows must be at least 100"),
        ({"rows": 1000.5}, "rows must be a whole number"),
        ({"rates": "papre"}, "dataset.rates must be default, paper or"),
        ({"rates": {"click": 0.1}}, "dataset.rates must be default, paper or"),
        ({"relatedness": 2}, "relatedness must lie between -1 and 1"),
        ({"oracle_auc": "high"}, "oracle_auc must be a number"),
        ({"oracle_auc": float("nan")}, "oracle_auc must lie between"),
        ({"drift": -0.1}, "drift must lie between 0"),
        ({"zipf": float("inf")}, "zipf must not be negative"),
        ({"rows_per_user": 0}, "rows_per_user must be above 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
@pytest.mark.parametrize("name", MODULES)
def test_options_that_make_no_sense(tmp_path: Path, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        MODULES[name].simulate(tmp_path / "sim", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "rates", "words"),
    [
        ("finance", (0.2, 0.3, 0.1, 0.05), r"rates\.application \(0\.3\) must be below rates\.click"),
        ("ecommerce", (0.5, 0.1, 0.05, 0.05), r"rates\.conversion \(0\.05\) must be below rates\.entering"),
        ("ecommerce", (0.5, 0.1, 0.05, "few"), r"rates\.conversion must be a number"),
        ("ecommerce", (0.5, 0.1, 0.05, 0), r"rates\.conversion must lie between 0 and 1"),
        ("tenrec", (0.99, 0.9, 0.1, 0.1), r"rates\.follow is too high: 3% of it happen without a click"),
    ],
)
def test_rates_that_make_no_sense(tmp_path: Path, name: str, rates: tuple[Any, ...], words: str) -> None:
    with pytest.raises(SeqmtlError, match=words):
        MODULES[name].simulate(tmp_path / "sim", rates=dict(zip(TASKS[name], rates, strict=True)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("extreme", [{"rows": 100}, {"oracle_auc": 0.5}, {"oracle_auc": 0.95, "drift": 2}, {"rows_per_user": 1}])
def test_extremes_are_finite(tmp_path: Path, name: str, extreme: dict[str, Any]) -> None:
    MODULES[name].simulate(tmp_path, **{"rows": 500, "rows_per_user": 20, **extreme})
    p = oracle(tmp_path).drop("_row")
    assert p.min_horizontal().min() >= 0  # type: ignore[operator]
    assert p.max_horizontal().max() <= 1  # type: ignore[operator]
    assert not p.select(pl.any_horizontal(pl.all().is_nan())).to_series().any()
    if extreme == {"oracle_auc": 0.5}:
        assert max(p.std().row(0)) < 1e-3


@pytest.mark.parametrize("name", MODULES)
def test_reports_end_at_the_whole(tmp_path: Path, name: str) -> None:
    reports: list[tuple[str, int, float]] = []
    MODULES[name].simulate(tmp_path, rows=200, report=lambda *what: reports.append(what))
    assert reports[-1] == ("simulating", 200, 1.0)
    assert all(what.startswith("finding the rates") for what, _, _ in reports[:-1])


CHILD = """
import sys, pathlib, importlib
simulate = importlib.import_module("seqmtl.simulate." + sys.argv[1]).simulate
size = {"train_rows": int(sys.argv[2]), "test_rows": 1000} if sys.argv[1] == "aliccp" else {"rows": int(sys.argv[2])}
scale = int(sys.argv[2]) / 500_000  # the same users and items whatever the rows: memory may grow with those
usual = {"aliccp": (100, 200), "tenrec": (100, 150), "finance": (20, 1000), "ecommerce": (6.3, 150)}[sys.argv[1]]
simulate(pathlib.Path(sys.argv[3]), **size, rows_per_user=usual[0] * scale, rows_per_item=usual[1] * scale)
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's, if that was larger when it forked
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODULES, "aliccp"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, name: str) -> None:
    peak = []
    for rows in (500_000, 2_000_000):
        command = [sys.executable, "-c", CHILD, name, str(rows), str(tmp_path / str(rows))]
        peak.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print(name, [round(mib) for mib in peak], "MiB")
    assert peak[1] < peak[0] + 60
