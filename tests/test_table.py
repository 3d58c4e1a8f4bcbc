"""`seqmtl table`: what its words mean, before anything is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import CONF
from seqmtl import cli
from seqmtl.asked import Asked, read_words
from seqmtl.errors import SeqmtlError
from seqmtl.table import REFUSED, chosen_parts, words_of
from seqmtl.tables.spec import read_table
from test_cli import seqmtl


def parse(words: list[str]) -> Asked:
    return read_words("table", words, ("part",), REFUSED)


def test_words_of_the_table_and_words_of_its_trainings() -> None:
    asked = parse(["aitm_table2", "dataset=aliccp", "seeds=3,1,1", "launcher=parallel", "trainer.max_epochs=2", "--dry-run"])
    assert asked == Asked("aitm_table2", "aliccp", (3, 1), {}, ("launcher=parallel", "trainer.max_epochs=2"), True)
    assert parse(["t", "seeds=[1,2]", "part=x", "dry_run=true"]) == Asked("t", "", (1, 2), {"part": "x"}, (), True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which table"),
        (["dataset=aliccp"], "which table"),
        (["a", "b"], "one table at a time"),
        (["a", "-m"], "a table takes no -m"),
        (["a", "seed=1,2"], "seeds=1,2,3"),
        (["a", "seeds=one"], "whole numbers"),
        (["a", "seeds=-1"], "whole numbers"),
        (["a", "model=mmoe"], "its rows name them"),
        (["a", "dry_run=maybe"], "dry_run must be true or false"),
    ],
)
def test_words_that_a_table_cannot_take(words: list[str], says: str) -> None:
    with pytest.raises(SeqmtlError, match=says):
        parse(words)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], [("public", "aliccp_sim"), ("industrial", "finance_sim")]),
        (["dataset=aliccp"], [("public", "aliccp")]),
        (["part=industrial"], [("industrial", "finance_sim")]),
        (["part=industrial", "dataset=mine"], [("industrial", "mine")]),
    ],
)
def test_the_dataset_chooses_the_part(words: list[str], chosen: list[tuple[str, str]]) -> None:
    spec = read_table("aitm_table2", [CONF])
    assert [(part.name, dataset) for part, dataset in chosen_parts(spec, parse(["aitm_table2", *words]))] == chosen


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["part=private"], "has no part 'private'; it has public: aliccp_sim"),
        (["dataset=mine"], "no part of table aitm_table2 is made for"),
    ],
)
def test_parts_that_are_not_there(words: list[str], says: str) -> None:
    spec = read_table("aitm_table2", [CONF])
    with pytest.raises(SeqmtlError, match=says):
        chosen_parts(spec, parse(["aitm_table2", *words]))


def test_words_of_a_row_stand_after_those_of_the_table() -> None:
    (public, _) = read_table("aitm_table2", [CONF]).parts
    assert words_of(public, "aliccp", public.rows[0].overrides) == ["experiment=aitm", "dataset=aliccp", "model=lightgbm"]


def test_a_dry_run_tells_and_leaves_no_trace(tmp_path: Path) -> None:
    done = seqmtl(tmp_path, "table", "aitm_table2", "dataset=aliccp_sim", "seeds=1,2", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "dataset aliccp_sim would be prepared first" in done.stdout
    assert "aitm/calibrated/seed=2 on aliccp_sim: new: start, when the data are there" in done.stdout
    assert "14 to run: no run here tells how long these take: lightgbm/bce, single_task/bce" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_data_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    done = seqmtl(tmp_path, "table", "aitm_table2", "dataset=aliccp", "seeds=1")
    assert done.returncode == 1
    assert "dataset 'aliccp' is not prepared" in done.stderr + done.stdout
    assert "sample_skeleton_train.csv" in done.stderr + done.stdout


def test_help_names_the_tables_also_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "homemade.yaml").write_text("title: Our own funnel\n")
    said = seqmtl(tmp_path, "table", "--config-dir", "mine", "--help").stdout
    assert "aitm_table2" in said
    assert "Our own funnel" in said


def test_help_of_figures_tells_of_its_options_and_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "mine" / "figure").mkdir(parents=True)
    (tmp_path / "mine" / "figure" / "broken.yaml").write_text("title: [never closed\n")
    done = seqmtl(tmp_path, "figure", "--config-dir", "mine", "--help")
    assert done.returncode == 0, done.stderr
    assert "figure.OPTION=" in done.stdout
    assert re.search(r"broken +mine/figure/broken\.yaml cannot be read: .*line 2", done.stdout)
    assert "AITM (KDD 2021), Figure 5" in done.stdout


@pytest.mark.parametrize("verb", ["table", "figure"])
@pytest.mark.parametrize("more", [["--dry-run"], ["--help"]])
def test_a_folder_that_is_not_there_is_told(verb: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["seqmtl", "mine", f"--config-dir={tmp_path / 'none'}", *more])
    with pytest.raises(SeqmtlError, match=r"--config-dir .*none: there is no such folder"):
        cli.run(verb)
