"""From finished runs to a table's numbers, of predictions whose order is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import finish, test_labels
from omegaconf import OmegaConf

from conftest import write_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.estimate import estimate
from seqmtl.plan import Plan, Planned
from seqmtl.tables.collect import Jobs, part_of, refused_part
from seqmtl.tables.content import Part, table_from_json
from seqmtl.tables.spec import PartSpec, _part

TASKS = ["click", "purchase"]
ROWS = {
    "Shared": {"overrides": ["model=shared_bottom"]},
    "MMoE": {"overrides": ["model=mmoe"]},
    "AITM": {"overrides": ["model=aitm"], "ours": True},
}
PART = {
    "datasets": ["aliccp_sim"],
    "columns": ["click.auc", "purchase.auc", "click.logloss"],
    "gain": {"over": "Shared", "kind": "relative"},
    "published": {"AITM": ["0.6043 ± 0.0016", "0.6525 ± 0.0024 **", "-"]},
}
SKILL = {"shared_bottom": 0.2, "mmoe": 0.6, "aitm": 1.0}

Make = Callable[..., tuple[PartSpec, Jobs]]


@pytest.fixture
def asked(tmp_path: Path, compose: Any) -> Make:
    """asked(spec) → the part, and its jobs on 4,000 test rows; none is run yet."""
    write_dataset(tmp_path / "data" / "aliccp_sim", {"train": 50, "valid": 50, "test": 4000})

    def make(
        given: dict[str, object] = PART, rows: dict[str, object] = ROWS, seeds: tuple[int, ...] = (1, 2, 3)
    ) -> tuple[PartSpec, Jobs]:
        spec = _part("public", rows, [], given)
        plan, places = Plan(), {"data_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "outputs")}
        jobs: dict[str, dict[int, Planned]] = {}
        for row in spec.rows:
            config = compose(*row.overrides, "dataset.user=user") | places
            jobs[row.label] = {seed: plan.add(OmegaConf.create(config | {"seed": seed}), True) for seed in seeds}
        return spec, jobs

    return make


def train(job: Planned, skill: float | None = None) -> None:
    """Predictions that know the label by `skill` standard deviations."""
    tasks = job.config["dataset"]["tasks"]
    y = test_labels(Path(job.config["data_dir"]) / "aliccp_sim", tasks)
    rng = np.random.default_rng([job.config["seed"], len(job.config["model"]["name"])])
    finish(job, -1 + rng.normal(size=y.shape) + (SKILL[job.config["model"]["name"]] if skill is None else skill) * y)


def made(asked: Make, **more: object) -> Part:
    spec, jobs = asked(**more)
    for seeds in jobs.values():
        for job in seeds.values():
            train(job)
    return part_of(spec, "aliccp_sim", jobs)


def test_means_gains_places_and_what_the_paper_printed(asked: Make) -> None:
    part = made(asked)
    shared, mmoe, aitm = part.table_rows
    cell = aitm.cells["click.auc"]
    values = list(cell.values.values())
    assert list(cell.values) == [1, 2, 3]
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.std == pytest.approx(np.std(values, ddof=1))
    base = shared.cells["click.auc"].mean
    assert base is not None
    assert cell.gain == pytest.approx(np.mean(values) / base - 1)
    assert shared.cells["click.auc"].gain is None
    assert [row.cells["click.auc"].place for row in part.table_rows] == [None, 2, 1]
    assert [row.cells["click.logloss"].place for row in part.table_rows] == [None, 2, 1], "of a loss the least is the best"
    assert cell.published is not None
    assert (cell.published.value, cell.published.std) == (0.6043, 0.0016)
    assert aitm.cells["purchase.auc"].published.stars == "**"  # type: ignore[union-attr]
    assert aitm.cells["click.logloss"].published is None
    assert mmoe.cells["click.auc"].published is None
    assert not part.comparable
    assert part.clusters == "40 users (field user)" or part.clusters.endswith("users (field user)")


def test_the_papers_test_is_of_the_proposed_model_against_the_best_baseline(asked: Make) -> None:
    shared, mmoe, aitm = made(asked).table_rows
    test = aitm.cells["click.auc"].seeds_test
    assert test is not None
    assert (test.against, test.adjusted) == ("MMoE", None)
    assert test.p is not None
    assert test.p < 0.05
    assert test.stars(+1)
    assert not test.stars(-1), "a star is for what is better"
    assert shared.cells["click.auc"].seeds_test is None
    assert mmoe.cells["click.auc"].seeds_test is None


def test_on_the_rows_all_are_compared_with_the_best(asked: Make) -> None:
    shared, mmoe, aitm = made(asked).table_rows
    tests = [row.cells["click.auc"].rows_test for row in (shared, mmoe, aitm)]
    assert [test.against for test in tests if test] == ["AITM", "AITM", "MMoE"]
    of_shared, of_mmoe, of_aitm = tests
    assert of_shared is not None and of_mmoe is not None and of_aitm is not None  # noqa: PT018
    assert of_mmoe.difference is not None
    assert of_mmoe.difference < 0
    assert of_mmoe.interval is not None
    assert of_mmoe.interval[0] < of_mmoe.difference < of_mmoe.interval[1] < 0
    assert of_aitm.difference == pytest.approx(-of_mmoe.difference)
    assert of_aitm.adjusted == of_mmoe.adjusted
    assert of_mmoe.p is not None and of_mmoe.adjusted is not None  # noqa: PT018
    assert of_mmoe.p <= of_mmoe.adjusted <= 3 * of_mmoe.p, "the best of three rows: three pairs"


def test_a_planted_advantage_is_found_and_none_is_not(asked: Make) -> None:
    spec, jobs = asked()
    for label, seeds in jobs.items():
        for job in seeds.values():
            train(job, 0.6 if label == "AITM" else 0.4)
    shared, mmoe, aitm = part_of(spec, "aliccp_sim", jobs).table_rows
    assert aitm.cells["click.auc"].rows_test.stars(+1) == "**"  # type: ignore[union-attr]
    alike = sorted((row.cells["click.auc"] for row in (shared, mmoe)), key=lambda cell: cell.mean or 0)
    assert alike[0].mean is not None and alike[1].mean is not None  # noqa: PT018
    assert alike[1].mean - alike[0].mean < 0.02


def test_rows_that_name_another_row_are_compared_with_it(asked: Make) -> None:
    rows = {"MMoE": ["model=mmoe"], "Shared": {"overrides": ["model=shared_bottom"], "against": "AITM"}, "AITM": ["model=aitm"]}
    part = made(asked, given={"datasets": ["aliccp_sim"], "columns": ["click.auc"]}, rows=rows)
    mmoe, shared, aitm = part.table_rows
    assert shared.cells["click.auc"].seeds_test.against == "AITM"  # type: ignore[union-attr]
    assert shared.cells["click.auc"].rows_test.against == "AITM"  # type: ignore[union-attr]
    assert shared.cells["click.auc"].rows_test.adjusted is None, "one pair is asked for"  # type: ignore[union-attr]
    assert mmoe.cells["click.auc"].seeds_test is None
    assert mmoe.cells["click.auc"].rows_test is None
    assert aitm.cells["click.auc"].gain is None


def test_two_seeds_are_too_few_and_it_says_so(asked: Make) -> None:
    test = made(asked, seeds=(1, 2)).table_rows[2].cells["click.auc"].seeds_test
    assert test is not None
    assert test.p is None
    assert test.difference is not None
    assert "2 common seeds" in test.note


def test_missing_and_failed_seeds_are_named_and_nothing_else_is_taken(asked: Make) -> None:
    spec, jobs = asked()
    for label, seeds in jobs.items():
        for seed, job in seeds.items():
            if (label, seed) != ("MMoE", 3) and label != "AITM":
                train(job)
    broken = jobs["MMoE"][3]
    assert broken.run is not None
    broken.run.path.mkdir(parents=True)
    broken.run.write_status("failed", error="the loss is not finite")
    stale = jobs["AITM"][1]
    train(stale)
    assert stale.run is not None
    stale.run.write_status("finished", data_version="of other data")
    shared, mmoe, aitm = part_of(spec, "aliccp_sim", jobs).table_rows
    assert not shared.missing
    assert [(run.seed, run.state, run.why) for run in mmoe.missing] == [(3, "failed", "the loss is not finite")]
    assert list(mmoe.cells["click.auc"].values) == [1, 2]
    assert [run.seed for run in aitm.missing] == [1, 2, 3], "a run on other data is no run of this table"
    assert aitm.cells["click.auc"].mean is None
    assert aitm.cells["click.auc"].rows_test is None
    assert [row.cells["click.auc"].place for row in (shared, mmoe, aitm)] == [None] * 3, "two seeds are not better than three"
    common = [shared.cells["click.auc"].values[seed] for seed in (1, 2)]
    assert mmoe.cells["click.auc"].gain == pytest.approx((mmoe.cells["click.auc"].mean or 0) / np.mean(common) - 1)  # type: ignore[arg-type]


def test_published_values_are_comparable_on_the_same_data_by_the_tables_own_protocol_alone(asked: Make) -> None:
    spec, jobs = asked({**PART, "published_on": ["aliccp_sim"]})
    for seeds in jobs.values():
        for job in seeds.values():
            train(job)
    assert part_of(spec, "aliccp_sim", jobs).comparable
    assert not part_of(spec, "aliccp_sim", jobs, as_published=False).comparable


def test_a_row_without_a_task_has_no_such_cell(asked: Make) -> None:
    rows = {"all": ["model=mmoe"], "-purchase": ["model=mmoe", "dataset.tasks=[click]"]}
    spec, jobs = asked({"datasets": ["aliccp_sim"], "columns": ["click.auc", "purchase.auc"]}, rows, (1,))
    for seeds in jobs.values():
        for job in seeds.values():
            train(job)
    whole, without = part_of(spec, "aliccp_sim", jobs).table_rows
    assert set(whole.cells) == {"click.auc", "purchase.auc"}
    assert set(without.cells) == {"click.auc"}
    assert without.cells["click.auc"].std is None


def test_what_stands_beside_the_numbers(asked: Make) -> None:
    part = made(asked)
    row = part.table_rows[0]
    assert row.efficiency == {
        "params": 1000.0,
        "params_mb": 0.004,
        "epoch_seconds": 2.0,
        "test_seconds": 0.5,
        "test_rows_per_second": 8000.0,
    }
    assert row.training == {"val/auc/click": {seed: [[1, 0.61], [2, 0.62]] for seed in (1, 2, 3)}}
    assert sum(rows for _, _, rows in row.reliability["click"]) == 4000
    assert part.rows["test"] == 4000
    assert row.config["model"]["name"] == "shared_bottom"
    assert "seed" not in row.config


def test_no_job_that_can_run_and_no_such_task(asked: Make) -> None:
    spec, jobs = asked(rows={"DIN": ["model=din"]}, given={"datasets": ["aliccp_sim"], "columns": ["click.auc"]})
    with pytest.raises(SeqmtlError, match="reads histories"):
        part_of(spec, "aliccp_sim", jobs)
    refused = refused_part(spec, "aliccp_sim", jobs)
    assert [(run.state, "reads histories" in run.why) for run in refused.table_rows[0].runs] == [("refused", True)] * 3
    spec, jobs = asked(rows={"MMoE": ["model=mmoe"]}, given={"datasets": ["aliccp_sim"], "columns": ["watch.auc"]})
    with pytest.raises(SeqmtlError, match="has none of the tasks watch; it has click, purchase"):
        part_of(spec, "aliccp_sim", jobs)


def test_time_is_foreseen_by_what_finished_runs_took(asked: Make, tmp_path: Path) -> None:
    _, jobs = asked(seeds=(1, 2))
    train(jobs["MMoE"][1])
    todo = [jobs["MMoE"][2], jobs["AITM"][1], jobs["AITM"][2]]
    found = estimate(todo, tmp_path / "outputs")
    assert found.seconds == pytest.approx(108)
    assert found.unknown == ["aitm/calibrated", "aitm/calibrated"]
    assert str(found).startswith("about 1 min 48 s of work")
    assert str(found).endswith("no run here tells how long these take: aitm/calibrated")
    assert str(estimate(todo, tmp_path / "nowhere")) == "no run here tells how long these take: mmoe/bce, aitm/calibrated"


def test_a_table_goes_through_json(asked: Make) -> None:
    import json

    from seqmtl.tables.content import Table

    part = made(asked)
    table = Table("t", "T", "aitm", "Table 2", "", (1, 2, 3), "seqmtl table t", "2026-11-27", {}, "abc", "2 cores", (part,))
    assert table_from_json(json.loads(json.dumps(table.to_json()))) == table
