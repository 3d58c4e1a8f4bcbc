"""What benchmarks/bench.py writes, and how its contenders take turns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from seqmtl.bench.rows import RowMaker, write_rows
from suite.contenders import Contender, FailedError, command_of, spread
from suite.fits import line, plot, slope, summary
from suite.models import PEERS, SIZES, optimizers_there, overrides
from suite.results import KEYS, WHAT, compared, markdown, result, update
from suite.scaling import points

OURS = {"rows_per_second": 300.0, "low": 250.0, "high": 350.0, "peak_mb": 10.0}
THEIRS = {"rows_per_second": 100.0, "low": 90.0, "high": 110.0, "peak_mb": 20.0}


def entries(what: str) -> list[dict[str, Any]]:
    if what in ("train", "infer", "stream"):
        return [compared(what, OURS, "torch-rechub", THEIRS, model="aitm", dim=5, batch=2000, optimizer="adam")]
    return [result(what, model="aitm", seconds=1.5, detail="a command")]


def test_every_entry_has_all_keys_and_its_facts(tmp_path: Path) -> None:
    for what in reversed(WHAT):
        update(tmp_path, what, entries(what), {"machine": "a machine", "date": "2026-01-01", "threads": 2})
    found = json.loads((tmp_path / "results.json").read_text())
    assert [entry["what"] for entry in found] == list(WHAT)
    for entry in found:
        assert set(KEYS) <= set(entry)
        assert entry["machine"] == "a machine"
    assert found[0]["ratio"] == pytest.approx(3.0)
    assert (found[0]["peer_rows_per_second"], found[0]["peer_peak_mb"]) == (100.0, 20.0)


def test_what_is_measured_again_replaces_its_kind_only(tmp_path: Path) -> None:
    for commit, kinds in (("first", ("train", "startup")), ("second", ("train",))):
        for what in kinds:
            update(tmp_path, what, entries(what), {"commit": commit})
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(entry["what"], entry["commit"]) for entry in found] == [("train", "second"), ("startup", "first")]


def test_tables_have_the_columns_that_have_values() -> None:
    text = markdown([*entries("train"), *entries("startup")])
    train, startup = text.split("## startup")
    assert "| aitm | 5 | 2,000 | adam | 300 | 250 | 350 | torch-rechub | 100 | 90 | 110 | 3.00x | 10 | 20 |" in train
    assert "seconds" not in train
    assert "| aitm | a command | 1.50 |" in startup


def test_the_median_the_least_and_the_most() -> None:
    answers = [{"rows": 100, "seconds": s, "peak_mb": 10 * s} for s in (1.0, 4.0, 2.0)]
    assert spread(answers) == {"rows_per_second": 50.0, "low": 25.0, "high": 100.0, "peak_mb": 40.0}


def test_a_slope_of_two_is_found() -> None:
    assert slope([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2.0)


def test_a_line_is_found_and_told_with_its_units(tmp_path: Path) -> None:
    assert line([1, 2, 10], [5, 7, 23]) == pytest.approx((3.0, 2.0))
    measured = [result("scaling", axis="rows", value=1e6 * x, seconds=0.5 + 2 * x, peak_mb=100 + x % 3) for x in (1, 2, 4)]
    told = summary("rows", measured)
    assert told["detail"].startswith("0.5 s + 2 s per million rows; 10")
    assert told["mb_slope"] == pytest.approx(0, abs=0.01)
    plot(tmp_path / "made" / "rows.png", "rows", measured)
    assert (tmp_path / "made" / "rows.png").stat().st_size > 5000


def test_points_of_scaling_grow() -> None:
    for some in points(quick=False).values():
        values = [point.value for point in some]
        assert values == sorted(values)
        assert len(set(values)) == len(values) >= 3


@pytest.mark.parametrize("model", SIZES)
def test_the_words_compose(model: str, compose: Any) -> None:
    for optimizer in optimizers_there()[0]:
        config = compose(*overrides(model, 18, 2000, optimizer, 1))
        assert config["model"]["dim"] == 18
        assert bool(config["optimizer"]["decay"]) == (optimizer == "adam" and model != "apem")
    assert PEERS[model]


ECHO = """
import sys
print('{"versions": {"echo": "1"}}', flush=True)
for line in sys.stdin:
    print(line.strip(), flush=True)
    if '"infer"' in line:
        break
sys.exit('that was all')
"""


def test_a_contender_answers_until_it_ends() -> None:
    with Contender("echo", [sys.executable, "-c", ECHO], 1) as contender:
        assert contender.versions == {"echo": "1"}
        assert contender.turn("train", 2) == {"what": "train", "batches": 2}
        contender.turn("infer")
        with pytest.raises(FailedError, match=r"echo ended with status 1(.|\n)*that was all"):
            contender.turn("train")


@pytest.mark.slow
def test_ours_trains_and_infers_in_turns(tmp_path: Path) -> None:
    data = tmp_path / "rows"
    write_rows(data, RowMaker({"user": 40, "item": 30}, ("click", "purchase")), {"train": 3000, "valid": 50, "test": 900})
    words = overrides("aitm", 5, 500, "adam", 1)
    command = command_of("seqmtl", data, "aitm", 5, 500, 1, Path(), words)
    with Contender("seqmtl", command, 1) as contender:
        assert contender.turn("train", 2)["rows"] == 1000
        whole = contender.turn("train")
        assert (whole["rows"], whole["steps"]) == (3000, 6)
        assert whole["peak_mb"] > 50
        inferred = contender.turn("infer")
        assert inferred["rows"] == 900
        assert 0 <= inferred["auc"][0] <= 1
