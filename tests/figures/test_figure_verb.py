"""The verb: what it asks of the runs, and what becomes of it when they cannot give it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
import yaml
from figure_cases import finish

from seqmtl import figure, mlflow_store, sweep
from seqmtl.composing import composed_plan
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run
from seqmtl.shipped import conf_directory

CONF = conf_directory()
MINE = {
    "title": "My map",
    "draw": "task_space",
    "datasets": ["aliccp_sim"],
    "rows": {"PLE": ["model=ple", "model.dim=4"]},
    "options": {"what": "experts", "rows": 20, "perplexity": 5.0, "seed": 0},
}
CURVES = {
    "title": "My curve",
    "draw": "curves",
    "datasets": ["aliccp_sim"],
    "rows": {"A": ["model=mmoe"]},
    "panels": {"a": {"key": "model.dim", "values": [4, 8]}, "b": {"points": {"x": [], "y": ["dataset.tasks=[like]"]}}},
}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """conf folders, one of the user's own with two figures."""
    (tmp_path / "conf" / "figure").mkdir(parents=True)
    for name, content in (("mine", MINE), ("curve", CURVES)):
        (tmp_path / "conf" / "figure" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return [CONF, tmp_path / "conf"]


class Kept:
    """In the place of MLflow's store: what it was given."""

    files: ClassVar[list[tuple[Any, ...]]] = []
    error = ""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir

    def put_files(self, experiment: str, name: str, tags: dict[str, str], content: bytes, files: list[Path]) -> None:
        if Kept.error:
            raise SeqmtlError(Kept.error)
        Kept.files.append((experiment, name, tags, content, sorted(path.name for path in files)))


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    monkeypatch.setattr(Kept, "files", [])
    if "slow" not in request.keywords:
        monkeypatch.setattr(mlflow_store, "Store", Kept)
    return Kept


@pytest.fixture
def places(tmp_path: Path, dataset: Path) -> list[str]:
    return [f"data_dir={dataset.parent}", f"output_dir={tmp_path / 'out'}"]


def test_a_figure_of_a_run_that_is_there(
    folders: list[Path], places: list[str], tmp_path: Path, capsys: Any, store: type[Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trainer.threads=1", *places]
    _, (planned,) = composed_plan([["dataset=aliccp_sim", *MINE["rows"]["PLE"]]], [3], words, folders)  # type: ignore[index]
    assert planned.run is not None
    finish(planned.config, planned.run.path)
    assert figure.run(["mine", "seeds=3", "figure.rows=15", *words], folders) == 0
    said = capsys.readouterr().out
    assert "1 finished before, 0 to run" in said
    folder = tmp_path / "out" / "figures" / "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["mine.csv", "mine.png", "mine.svg"]
    points = pl.read_csv(folder / "mine.csv", comment_prefix="#")
    assert len(points) == 15 * 2
    first = (folder / "mine.csv").read_text().splitlines()[0]
    assert first == "# PLE on aliccp_sim (simulated), seed 3."
    assert first.removeprefix("# ") in said
    ((experiment, name, tags, content, files),) = store.files
    assert (experiment, name, tags["figure"], tags["dataset"]) == ("figures", "mine", "mine", "aliccp_sim")
    assert content == (folder / "mine.csv").read_bytes()
    assert files == ["mine.csv", "mine.png", "mine.svg"]
    monkeypatch.setattr(store, "error", "it is away")
    assert figure.run(["mine", "seeds=3", "figure.rows=15", *words], folders) == 0
    assert "the figure is not in MLflow: it is away; the same command tries again" in capsys.readouterr().out
    assert figure.run(["mine", "seeds=3", "figure.rows=15", *words, "--dry-run"], folders) == 0
    assert "finished: skip" in capsys.readouterr().out


def test_a_dry_run_lists_jobs_and_makes_nothing(folders: list[Path], places: list[str], tmp_path: Path, capsys: Any) -> None:
    assert figure.run(["curve", "seeds=1,2", "figure.panels=[a]", *places, "--dry-run"], folders) == 0
    said = capsys.readouterr().out
    assert said.count("new: start") == 4
    assert "4 to run" in said
    assert "(a) A 8: mmoe/bce/seed=2: new: start" in said
    elsewhere = [f"data_dir={tmp_path / 'none'}", places[1]]
    assert figure.run(["curve", "seeds=1", "figure.panels=[a]", "dry_run=true", *elsewhere], folders) == 0
    said = capsys.readouterr().out
    assert "dataset aliccp_sim would be prepared first" in said
    assert said.count("start, when the data are there") == 2
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "none").exists()


def test_a_dry_run_counts_a_run_once_and_knows_what_may_be_left_out(
    folders: list[Path], places: list[str], tmp_path: Path, capsys: Any
) -> None:
    panels = {
        "a": {"key": "model.dim", "values": [4, 8]},
        "b": {"points": {"x": ["model.dim=8"], "y": ["dataset.tasks=[like]"], "z": ["model.dim=4"]}, "optional": True},
    }
    (folders[1] / "figure" / "curve.yaml").write_text(yaml.safe_dump({**CURVES, "panels": panels}))
    assert figure.run(["curve", *places, "--dry-run"], folders) == 0, "as the command itself, which leaves y out"
    said = capsys.readouterr().out
    assert "(a) A 8, (b) A x: mmoe/bce/seed=1: new: start" in said
    assert "(b) A y: mmoe/bce/seed=1: cannot run: leave out, no task is named like" in said
    assert "3 jobs: 2 to start, 1 to leave out; 2 left out, the same as one of these" in said
    assert "2 to run" in said

    nothing_there = [f"data_dir={tmp_path / 'none'}", places[1]]
    assert figure.run(["curve", "seeds=1,2", *nothing_there, "--dry-run"], folders) == 0
    said = capsys.readouterr().out
    assert said.count("when the data are there\n") == 4
    assert said.count("(b) A y: mmoe/bce/seed=2 on aliccp_sim: new: start, when the data are there and allow it") == 1
    assert "4 to run" in said
    assert "up to 2 more, if the data allow them" in said

    (folders[1] / "figure" / "curve.yaml").write_text(yaml.safe_dump({**CURVES, "panels": {"b": {**panels["b"]}}}))
    assert figure.run(["curve", "dataset.tasks=[dislike]", *places, "--dry-run"], folders) == 1, "no point is left"


def test_one_model_of_several_seeds_is_refused(folders: list[Path], places: list[str]) -> None:
    with pytest.raises(SeqmtlError, match="mine shows one model of one seed: seeds=2"):
        figure.run(["mine", "seeds=2,3", *places, "--dry-run"], folders)


def test_a_run_that_failed_is_told(folders: list[Path], places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(sweep, "send_rest", lambda jobs: sent.append(len(jobs)))

    def fails(plan: Any) -> None:
        for planned in plan.jobs:
            planned.run.path.mkdir(parents=True)
            planned.run.write_status("failed", error="the disk is on fire")

    monkeypatch.setattr(sweep, "complete", fails)
    with pytest.raises(SeqmtlError, match=r"mine needs PLE, seed 1, .*not finished but failed: the disk is on fire\n.*seed=1"):
        figure.run(["mine", *places], folders)
    assert sent == [1], "what MLflow has not got is sent all the same"


def test_a_point_that_is_refused(
    folders: list[Path], places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(SeqmtlError, match=r"curve cannot have \(b\) A y: no task is named like"):
        figure.run(["curve", "figure.panels=[b]", *places], folders)
    optional = {**CURVES, "panels": {"b": {**CURVES["panels"]["b"], "optional": True}}}  # type: ignore[index]
    (folders[1] / "figure" / "curve.yaml").write_text(yaml.safe_dump(optional))

    nothing = "curve has no run that can be had: no task is named"
    with pytest.raises(SeqmtlError, match=nothing):
        figure.run(["curve", "dataset.tasks=[dislike]", *places], folders)

    def finishes(plan: Any) -> None:
        assert [planned.config["dataset"]["tasks"] for planned in plan.jobs] == [["click", "purchase"]]
        planned = plan.jobs[0]
        shutil.rmtree(planned.run.path, ignore_errors=True)
        finish(planned.config, planned.run.path)

    monkeypatch.setattr(sweep, "complete", finishes)
    assert figure.run(["curve", *places], folders) == 0
    assert "left out: (b) A y: no task is named like" in capsys.readouterr().err
    text = (tmp_path / "out" / "figures" / "curve" / "curve.csv").read_text()
    assert "# Left out, as these data do not allow it: (b) A y." in text
    assert "b,A,x,0.00000000,click,0.6" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which figure"),
        (["dataset=aliccp_sim"], "which figure"),
        (["nothing"], "no figure 'nothing'"),
        (["mine", "other"], "'other' is neither"),
        (["mine", "-m"], "takes no -m"),
        (["mine", "seed=1"], "seeds=1,2,3"),
        (["mine", "seeds=one"], "seeds must be whole numbers"),
        (["mine", "dry_run=maybe"], "dry_run must be true or false"),
        (["mine", "figure.rows=[1"], "cannot be read"),
        (["mine", "figure.size=3"], r"no option figure\.size"),
        (["curve", "model.dim=8"], r"model\.dim is what panel a of curve changes"),
        (["mine", "optimizer=nothing"], "optimizer/nothing"),
        (["mine", "model=mmoe"], "its YAML names the models"),
    ],
)
def test_wrong_words_are_told(folders: list[Path], places: list[str], words: list[str], said: str) -> None:
    with pytest.raises(SeqmtlError, match=said):
        figure.run([*words, *(places if words else [])], folders)


def test_a_figure_that_trains_nothing(folders: list[Path], tmp_path: Path, capsys: Any) -> None:
    words = ["apem_figure5", f"output_dir={tmp_path / 'out'}", "model.bottom.gamma.steps_to_floor=100", "figure.steps=[0,50,100]"]
    assert figure.run([*words, "--dry-run"], folders) == 0
    assert "needs no run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert figure.run(words, folders) == 0
    points = pl.read_csv(tmp_path / "out" / "figures" / "apem_figure5" / "apem_figure5.csv", comment_prefix="#")
    assert points["step"].unique().to_list() == [0, 50, 100]
    assert points.filter(step=50)["gamma"][0] == pytest.approx(5.0005)


@pytest.mark.slow
def test_from_nothing_to_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Simulated data, a training in a process of its own, the points, the pictures; then again from the run that is there."""
    monkeypatch.chdir(tmp_path)
    rows = ("dataset.prepare.simulate.rows=12000", "trainer.max_epochs=1", "trainer.threads=1", "batch_size=100")
    words = ["aitm_figure6", *rows, "figure.rows=1000", "figure.top=40"]
    assert figure.run(words, [CONF]) == 0
    folder = tmp_path / "outputs" / "figures" / "aitm_figure6"
    points = pl.read_csv(folder / "aitm_figure6.csv", comment_prefix="#")
    assert points["edge"].unique(maintain_order=True).to_list() == ["application → approval", "approval → activation"]
    assert points.filter(before=0, after=0)["rows"].to_list() == [10] * 8
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    (run_dir,) = tmp_path.glob("outputs/finance_sim/aitm-*/seed=1")
    assert Run(run_dir).state() == "finished"
    capsys.readouterr()
    assert figure.run(words, [CONF]) == 0
    assert "1 finished before, 0 to run" in capsys.readouterr().out
    assert made == {path.name: path.read_bytes() for path in folder.iterdir()}, "the same, byte for byte"
