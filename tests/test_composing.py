"""Jobs from lists of words: what wins, what only the command line may say, which data are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import CONF, write_dataset
from seqmtl.composing import composed, composed_plan, last_wins, prepared, unprepared
from seqmtl.errors import SeqmtlError


def places(folder: Path) -> list[str]:
    return [f"data_dir={folder / 'data'}", f"output_dir={folder / 'outputs'}"]


def test_the_last_word_on_a_key_wins() -> None:
    said = last_wins(["model=mmoe", "batch_size=5", "+a.b=1", "model=aitm", "a.b=2", "~c"])
    assert said == ["batch_size=5", "model=aitm", "a.b=2", "~c"]


def test_words_of_the_user_go_to_all_rows_and_win(tmp_path: Path, dataset: Path) -> None:
    rows = [["model=mmoe", "batch_size=7"], ["model=aitm", "experiment=aitm"]]
    plan, jobs = composed_plan(rows, [1, 2], ["batch_size=9", "seed=5", *places(tmp_path)], [CONF])
    assert [(job.config["model"]["name"], job.config["seed"], job.config["batch_size"]) for job in jobs] == [
        ("mmoe", 1, 9),
        ("mmoe", 2, 9),
        ("aitm", 1, 9),
        ("aitm", 2, 9),
    ]
    assert all(job.run is not None and not job.error for job in jobs)
    assert len(plan.jobs) == 4


def test_the_same_run_in_two_rows_is_one_job(tmp_path: Path, dataset: Path) -> None:
    plan, jobs = composed_plan([["model=mmoe"], ["model=aitm"], ["model=mmoe", "seed=3"]], [1], places(tmp_path), [CONF])
    assert len(plan.jobs) == 2
    assert jobs[0] is jobs[2]


def test_a_row_that_cannot_run_keeps_its_reason_and_stops_no_other(tmp_path: Path, dataset: Path) -> None:
    _, (good, bad) = composed_plan([["model=mmoe"], ["model=din"]], [1], places(tmp_path), [CONF])
    assert good.run is not None
    assert bad.run is None
    assert "reads histories" in bad.error


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("modle=mmoe", "Could not override 'modle'"),
        ("model=mmo", "model/mmo"),
        ("model=a,b", "model=a,b"),
        ("allow=[evil.]", "which code may run is said on the command line only"),
        ("launcher=slurm launcher.setup=[reboot]", "what else a job runs is said on the command line only"),
    ],
)
def test_what_a_yaml_must_not_say(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(SeqmtlError) as raised:
        composed([row.split()], places(tmp_path), [CONF])
    assert says in str(raised.value)


def test_a_users_own_conf_folder_is_searched(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "small.yaml").write_text("# @package _global_\nbatch_size: 3\n")
    (cfg,) = composed([["experiment=small"]], [], [CONF, tmp_path / "mine"])
    assert cfg.batch_size == 3


def test_simulated_data_that_are_missing_are_made_once(tmp_path: Path) -> None:
    rows = [["dataset=aliccp_sim", "model=mmoe"], ["dataset=aliccp_sim", "model=aitm"], ["dataset=kuairand"]]
    made: list[Any] = []
    prepared(rows, places(tmp_path), [CONF], made.append)
    (cfg,) = made
    assert (cfg.dataset.name, cfg.overwrite, cfg.check) == ("aliccp_sim", False, False)
    write_dataset(tmp_path / "data" / "aliccp_sim")
    assert unprepared(rows, places(tmp_path), [CONF]) == []
