"""conf/figure: what each file asks for can be composed and drawn, and what it quotes stands in the paper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqmtl.composing import composed
from seqmtl.errors import SeqmtlError
from seqmtl.figures.kinds import KINDS
from seqmtl.figures.needs import NEEDS
from seqmtl.figures.reading import figure_files, read_figure, with_options
from seqmtl.shipped import conf_directory
from seqmtl.tables.papers import PAPERS

CONF = conf_directory()
NAMES = sorted(figure_files([CONF]))
PAPERS_AS_TEXT = Path(os.environ.get("SEQMTL_PAPERS", Path(__file__).parents[3] / "shared" / "papers"))


def test_all_figures_of_the_papers_are_there() -> None:
    assert [
        *("aitm_figure4", "aitm_figure5", "aitm_figure6", "aitm_figure7", "apem_figure5", "apem_figure7", "apem_figure8"),
        *("dtrn_figure1b", "dtrn_figure4", "dtrn_figure5", "dtrn_figure6"),
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_says_what_it_is(name: str) -> None:
    spec = read_figure(name, [CONF])
    assert spec.draw in KINDS
    assert spec.paper in PAPERS
    assert spec.where.split()[-1] in spec.title
    assert len(spec.about) > 60
    labels = [one.label for one in spec.wanted()]
    assert len(set(labels)) == len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_figure_can_be_composed(name: str) -> None:
    spec = read_figure(name, [CONF])
    configs = composed([one.overrides for one in spec.wanted()], [], [CONF])
    assert len(configs) == len(spec.wanted())
    assert {str(cfg.dataset.name) for cfg in configs} == {spec.dataset}


def test_the_papers_sample_sizes() -> None:
    options = {name: read_figure(name, [CONF]).options for name in NAMES}
    for name in ("aitm_figure4", "aitm_figure7"):
        assert (options[name]["positives"], options[name]["negatives"]) == (500, 500)
    assert (options["aitm_figure6"]["rows"], options["aitm_figure6"]["top"]) == (40000, 500)
    assert (options["dtrn_figure5"]["rows"], options["dtrn_figure5"]["above"]) == (1000, 40)
    assert options["dtrn_figure6"]["rows"] == 1000
    panels = {panel.name: panel for panel in read_figure("aitm_figure5", [CONF]).panels}
    assert list(panels["a"].points) == ["1", "5", "10", "16", "32", "64", "128"]
    assert [100 * float(point) for point in panels["c"].points if point != "natural"] == [0.025, 0.05, 0.125, 0.25, 0.5, 1, 2.5, 5]


@pytest.mark.data
@pytest.mark.skipif(not PAPERS_AS_TEXT.is_dir(), reason="no texts of the papers: set SEQMTL_PAPERS")
def test_published_costs_stand_in_the_paper() -> None:
    text = " ".join((PAPERS_AS_TEXT / "apem.txt").read_text(encoding="utf-8").split())
    published = read_figure("apem_figure8", [CONF]).options["published"]
    apem, ple, shared = published["APEM"], published["PLE"], published["Shared-Bottom"]
    assert f"APEM requires {apem['epoch_seconds']} seconds" in text
    assert (
        f"({shared['epoch_seconds']}s for the best results from Shared-Bottom) but similar to the PLE ({ple['epoch_seconds']}s)"
        in text
    )
    assert f"APEM spends {apem['test_seconds']} seconds for forward propagation" in text
    best = apem["test_seconds"] - shared["test_seconds"]
    assert published["AITM"]["test_seconds"] == shared["test_seconds"]
    assert f"like AITM and Shared-Bottom is {best} sec" in text
    assert f"with {apem['params_mb']} Mb ({published['Single-Task']['params_mb']} Mb for the largest model of Single-Task)" in text


ROWS = {"A": ["model=mmoe"]}
GOOD: dict[str, Any] = {"title": "Mine", "draw": "task_space", "datasets": ["aliccp_sim"], "rows": ROWS}
GOOD["options"] = {"what": "experts", "rows": 10, "perplexity": 30, "seed": 0}
BARS = {"draw": "cost", "rows": {"A": ["model=mmoe"], "B": ["model=ple"]}}


def write(folder: Path, **more: Any) -> None:
    (folder / "figure").mkdir(exist_ok=True)
    (folder / "figure" / "mine.yaml").write_text(yaml.safe_dump({**GOOD, **more}, sort_keys=False))


def curves(**panel: Any) -> dict[str, Any]:
    return {"draw": "curves", "options": {}, "panels": {"a": panel}}


def options(**more: Any) -> dict[str, Any]:
    return {"options": {**GOOD["options"], **more}}


def test_each_kind_says_what_it_needs() -> None:
    assert set(NEEDS) == set(KINDS)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"colour": "red"}, "has colour, which nothing reads"),
        ({"rows": {}}, "no rows"),
        ({"rows": {"A": "model=mmoe"}}, "row A must be a list of words"),
        ({"rows": {"A": ["model=mmoe", {"a": "b"}]}}, "row A must be a list of words"),
        ({"rows": {1: ["model=mmoe"]}}, "the name 1 must be text"),
        ({"rows": ["model=mmoe"]}, "rows must be {name"),
        ({"overrides": "experiment=aitm"}, "overrides must be a list of words"),
        ({"datasets": []}, "no dataset"),
        ({"datasets": "aliccp_sim"}, "datasets must be a list of words"),
        ({"datasets": ["aliccp", "aliccp"]}, "datasets has aliccp twice"),
        ({"datasets": {"aliccp": "batch_size=3"}}, "datasets.aliccp must be a list of words"),
        ({"seeds": [1, 1]}, "seeds must be different whole numbers"),
        ({"seeds": [1, "x"]}, "seeds must be different whole numbers"),
        ({"seeds": [-1]}, "seeds must be different whole numbers"),
        ({"seeds": [True]}, "seeds must be different whole numbers"),
        ({"seeds": 3}, "seeds must be different whole numbers"),
        ({"seeds": [1, 2]}, "one model of one seed, not of the seeds 1, 2"),
        ({"trains": "no"}, "trains must be true or false"),
        ({"title": ["a"]}, "title must be text"),
        ({"draw": "curvs"}, "draw must be one of transfer_space, .*, not 'curvs'"),
        ({"trains": False}, "needs its runs trained"),
        ({"rows": BARS["rows"]}, "shows one model, not the rows A, B"),
        ({"panels": {"a": {"points": {"x": []}}}}, "draw: task_space has no panels"),
        ({"draw": "curves", "options": {}}, "draw: curves needs panels"),
        ({"draw": "smooth_steps", "options": {"steps": [1]}}, "trains nothing: trains: false"),
        ({"draw": "smooth_steps", "trains": False, "options": {"steps": [-1]}}, r"options\.steps must be like"),
        ({"options": {}}, r"needs options\.what, options\.rows, options\.perplexity, options\.seed"),
        (options(colour="red"), "options has colour, which nothing reads"),
        (options(what="towers"), r"options\.what must be one of experts, bottoms, interests"),
        (options(what="interests"), r"needs options\.histories, options\.above"),
        (options(histories="watch"), r"options\.histories must be like \['watch'\]"),
        (options(rows=0), r"options\.rows must be like 1000, not 0"),
        (options(seed="x"), r"options\.seed must be like 0"),
        (options(perplexity=0), r"options\.perplexity must be like 30\.0"),
        ({**BARS, "options": {}}, r"draw: cost needs options\.ours"),
        ({**BARS, "options": {"ours": ["C"]}}, "C is none"),
        ({**BARS, "options": {"ours": ["A"], "published": {"D": {}}}}, "D is none"),
        ({**BARS, "options": {"ours": ["A"], "published": {"A": {"seconds": 1}}}}, "has seconds, which nothing reads"),
        ({**BARS, "options": {"ours": ["A"], "published": {"A": {"params_mb": "1 MB"}}}}, "must be a number, not '1 MB'"),
        (curves(title="x"), "panel a has either points, or a key and its values"),
        (curves(key="model.dim", values=[1], points={"x": []}), "panel a has either points"),
        (curves(points={"x": "model=ple"}), "panel a: x must be a list of words"),
        (curves(key="model.dim"), "KeyError: 'values'"),
        (curves(key="model.dim", values=[1], scale="cubic"), "scale must be one of linear, log"),
        (curves(key="model.dim", values=["1e-3"]), "values must be numbers"),
        (curves(key="model.dim", values=[True]), "values must be numbers"),
        (curves(key="model.dim", values=[1, 1.0]), "values must be different"),
        (curves(key="model.dim", values=[0, 1], scale="log"), "a log scale has no place for 0"),
        (curves(key="model.dim", values=[1], tasks="click"), "tasks must be a list of words"),
        (curves(key="model.dim", values=[1], optional="yes"), "optional must be true or false"),
        (curves(keys="model.dim"), "panel a has keys"),
    ],
)
def test_a_figure_written_wrongly_is_told_in_words(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    write(tmp_path, **more)
    with pytest.raises(SeqmtlError, match=rf"mine\.yaml is no figure: .*{words}"):
        read_figure("mine", [CONF, tmp_path])


def test_no_such_figure(tmp_path: Path) -> None:
    with pytest.raises(SeqmtlError, match=r"no figure 'aitm_figure9'; there are aitm_figure4"):
        read_figure("aitm_figure9", [CONF])


def test_what_a_figure_wants(tmp_path: Path) -> None:
    panels = {
        "a": {"key": "model.dim", "values": [1, 2.5, 1048576, 1048577], "optional": True},
        "b": {"points": {"all": [], "one": ["dataset.tasks=[click]"]}},
        "c": {"key": "dataset.downsample.rate", "values": [0.00025], "natural": "click"},
    }
    datasets = {"aliccp_sim": ["batch_size=20"], "aliccp": None}
    write(tmp_path, datasets=datasets, overrides=["experiment=aitm"], draw="curves", panels=panels, options={})
    spec = read_figure("mine", [CONF, tmp_path])
    found = {(one.panel, one.point): one for one in spec.wanted()}
    common = ("experiment=aitm", "dataset=aliccp_sim", "batch_size=20", "model=mmoe")
    assert found["a", "2.5"].overrides == (*common, "model.dim=2.5")
    assert found["a", "1048576"].overrides == (*common, "model.dim=1048576")
    assert found["a", "1048577"].overrides == (*common, "model.dim=1048577")
    assert found["a", "1"].optional
    assert found["b", "one"].overrides == (*common, "dataset.tasks=[click]")
    assert found["c", "0.00025"].overrides == (*common, "dataset.downsample.rate=0.00025")
    assert found["c", "natural"].overrides == (*common, "dataset.downsample=null")
    assert found["b", "all"].label == "(b) A all"
    chosen = with_options(spec, {"panels": ["b"]})
    assert [panel.name for panel in chosen.panels] == ["b"]
    for given, words in (
        ({"row": 5}, "no option figure.row; it has panels"),
        ({"panels": ["z"]}, "no panel z; figure.panels chooses from a, b, c"),
    ):
        with pytest.raises(SeqmtlError, match=words):
            with_options(spec, given)


def test_options_on_the_command_line(tmp_path: Path) -> None:
    write(tmp_path)
    spec = read_figure("mine", [CONF, tmp_path])
    assert dict(with_options(spec, {"rows": 5, "perplexity": 2.5}).options) == {**GOOD["options"], "rows": 5, "perplexity": 2.5}
    others = {"what": "interests", "histories": ["watch"], "above": 0}
    assert dict(with_options(spec, others).options) == {**GOOD["options"], **others}
    for given, words in (
        ({"row": 5}, "no option figure.row; it has what, rows, perplexity, seed, histories, above"),
        ({"rows": "many"}, "figure.rows must be like 1000, not 'many'"),
        ({"rows": 2.5}, "figure.rows must be like 1000"),
        ({"rows": True}, "figure.rows must be like 1000"),
        ({"rows": -1}, "figure.rows must be like 1000"),
        ({"what": 3}, "figure.what must be like 'experts'"),
        ({"what": "interests"}, "needs figure.histories, figure.above"),
    ):
        with pytest.raises(SeqmtlError, match=words):
            with_options(spec, given)
