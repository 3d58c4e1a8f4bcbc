"""model=lightgbm, cut off: boosters that are whole are kept, of the same data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm as lgb
import polars as pl
import pytest

from boost_cases import SMALL, TASKS, points, rewrite, small
from seqmtl import boost, job
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run
from seqmtl.tracking import Tracker


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def boosted(plan: Any) -> Any:
    return small(plan)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the job may tidy up."""


@pytest.mark.parametrize("at", ["in the first task", "between the tasks", "before the test"])
def test_a_job_that_was_cut_off_keeps_the_boosters_that_are_whole(boosted: Any, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    expected = job.run(boosted(name="whole"))
    cut = boosted(name="cut")
    grown: list[str] = []
    grow, update, logits = boost._grow, lgb.Booster.update, boost._logits
    updates = 0

    def killed_between(*args: Any) -> Any:
        grown.append(args[0])
        if at == "between the tasks" and len(grown) == 2:
            raise Killed
        return grow(*args)

    def killed_in(self: Any, *args: Any) -> Any:
        nonlocal updates
        updates += 1
        if at == "in the first task" and updates == 4:
            raise Killed
        return update(self, *args)

    def killed_before(*args: Any) -> Any:
        if at == "before the test":
            raise Killed
        return logits(*args)

    with monkeypatch.context() as patched:
        patched.setattr(boost, "_grow", killed_between)
        patched.setattr(lgb.Booster, "update", killed_in)
        patched.setattr(boost, "_logits", killed_before)
        patched.setattr(job, "_failed", lambda *_: None)
        with pytest.raises(Killed):
            job.run(cut)
    whole = {"in the first task": [], "between the tasks": ["click"], "before the test": ["click", "purchase"]}[at]
    assert Run(cut).status()["state"] == "running"
    assert sorted(p.name for p in cut.glob("*best*")) == [f"best.{task}.txt" for task in whole], "no half file"
    grown.clear()
    monkeypatch.setattr(boost, "_grow", lambda *args: (grown.append(args[0]), grow(*args))[1])
    assert job.run(cut) == expected
    assert grown == [task for task in TASKS if task not in whole]
    assert (cut / "test_logits.npy").read_bytes() == (cut.parents[1] / "whole" / "run" / "test_logits.npy").read_bytes()
    if whole:
        logged = points(cut)
        assert len(logged["val/auc/click"]) == expected["trees/click"] + SMALL["patience"], "one MLflow run, no point twice"


def test_a_damaged_booster_is_boosted_anew(boosted: Any) -> None:
    """LightGBM itself aborts the process on a file that is cut off."""
    run_dir = boosted()
    expected = job.run(run_dir)
    before = {path.name: path.read_bytes() for path in (run_dir / "best.click.txt", run_dir / "test_logits.npy")}
    (run_dir / "best.click.txt").write_bytes(before["best.click.txt"][:-300])
    (run_dir / "metrics.json").unlink()
    assert job.run(run_dir) == expected
    assert {name: (run_dir / name).read_bytes() for name in before} == before
    assert "best.click.txt is damaged: it is boosted anew" in (run_dir / "job.log").read_text()
    assert points(run_dir)["val/auc/click"], "one MLflow run, no point twice"


def test_boosters_of_other_data_are_not_kept(boosted: Any, dataset: Path) -> None:
    run_dir = boosted()
    before = job.run(run_dir)
    rewrite(dataset, lambda _, frame: frame.with_columns(user=39 - pl.col("user"), click=pl.col("purchase")))
    assert job.run(run_dir) != before
    assert (run_dir / "attempt-1" / "best.click.txt").exists()


def test_data_that_are_prepared_anew_under_a_run_are_refused(boosted: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow = boost._grow

    def swapped(*args: Any) -> Any:
        rewrite(dataset, lambda _, frame: frame.with_columns(user=39 - pl.col("user")))
        return grow(*args)

    monkeypatch.setattr(boost, "_grow", swapped)
    with pytest.raises(SeqmtlError, match="were prepared anew while this run trained on them; run the command again"):
        job.run(boosted())


def test_points_are_sent_before_a_booster_is_kept(boosted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resumed run does not compute again must be there."""
    order: list[str] = []
    flush, write = Tracker.flush, boost.write_file
    monkeypatch.setattr(Tracker, "flush", lambda self: (order.append(f"{len(self.pending)} points"), flush(self))[1])
    monkeypatch.setattr(boost, "write_file", lambda path, data: (order.append(path.name), write(path, data))[1])
    job.run(boosted(model={"rounds": 2, "patience": 9}, trainer={"log_every": 50}))
    assert order[:4] == ["4 points", "best.click.txt", "4 points", "best.purchase.txt"]
