"""The points of each kind of figure, their csv, and the pictures that are drawn from it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from seqmtl.errors import SeqmtlError
from seqmtl.figures import drawing, inner, selector
from seqmtl.figures.kinds import KINDS
from seqmtl.figures.points import Points, points_from_csv
from seqmtl.figures.reading import read_figure, with_options
from seqmtl.figures.runs import Made
from seqmtl.figures.spec import FigureSpec, Panel, Wanted
from seqmtl.nn.smooth_step import smooth_step
from seqmtl.runs import Run
from seqmtl.shipped import conf_directory

CONF = conf_directory()
Finish = Callable[..., Path]
AITM = ("model=aitm", "model.dim=4", "model.trunk.dims=[8,6]", "model.trunk.dropout=0", "dataset.tasks=[click,cart,purchase]")
DTRN = ("model=dtrn", "model.dim=8", "model/trunk=towers", "model.trunk.dims=[4]", "model.trunk.dropout=0")


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures take seconds."""
    monkeypatch.setattr(drawing, "DPI", 40)


def of_run(run_dir: Path, row: str = "OURS") -> Made:
    return Made(Wanted(row, ()), 1, inner.read_config(run_dir), Run(run_dir))


def spec_of(name: str, **options: Any) -> FigureSpec:
    return with_options(read_figure(name, [CONF]), options)


def look(points: Points, spec: FigureSpec) -> Mapping[str, bytes]:
    """Draw from the text of the csv, and refuse blank pictures."""
    again = points_from_csv(points.to_csv())
    pictures = drawing.pictures(KINDS[spec.draw].draw(again, spec), spec.name)
    pixels = imread(io.BytesIO(pictures["png"]))
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20, "more than a frame"
    svg = ElementTree.fromstring(pictures["svg"])
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}path"))) > 10
    return pictures


def test_a_csv_is_read_back_with_its_notes() -> None:
    points = Points(pl.DataFrame({"a": [1, 2], "x": [0.123456789012, 1e-9], "word": ["u, v", "w"]}), ("one\n line", "→ two"))
    again = points_from_csv(points.to_csv())
    assert again.notes == ("one line", "→ two")
    assert again.frame["a"].to_list() == [1, 2]
    assert again.frame["x"].to_list() == [0.12345679, 0.0]
    assert again.frame["word"].to_list() == ["u, v", "w"]
    assert again.to_csv() == points.to_csv()


def test_aitms_map_of_components(chain: Path, finished: Finish) -> None:
    spec = spec_of("aitm_figure4", task="cart", positives=5000, negatives=40)
    made = of_run(finished(chain, *AITM))
    points = KINDS[spec.draw].points([made], spec)
    frame, run = points.frame, made.inner()
    labels = run.labels[:, 1]
    assert len(frame) == 3 * (40 + labels.sum())
    one = frame.filter(component="ait")
    np.testing.assert_array_equal(one["label"], labels[one["row"].to_numpy()])
    np.testing.assert_array_equal(one["logit"], run.logits[one["row"].to_numpy(), 1])
    for label, way in ((1, -1), (0, 1)):
        ranked = one.filter(label=label)
        assert (np.diff(way * ranked["logit"].to_numpy()) >= 0).all(), "the surest first"
        assert ranked["bin"].to_list() == [1 if share < 0.5 else 2 for share in ranked["rank_share"]]
    assert any("cart after click" in note for note in points.notes)
    assert any(f"{labels.sum()} positives, fewer than the 5,000 asked for" in note for note in points.notes)
    assert not any("negatives, fewer" in note for note in points.notes)
    look(points, spec)


def test_aitms_weights_by_stage(chain: Path, finished: Finish) -> None:
    spec = spec_of("aitm_figure6", tasks=["cart", "purchase"], top=20, rows=250)
    made = of_run(finished(chain, *AITM))
    points = KINDS[spec.draw].points([made], spec)
    first = points.frame.filter(edge="click → cart", before=1, after=1)
    assert first["quartile"].to_list() == [1, 2, 3, 4]
    assert first["rows"].to_list() == [5, 5, 5, 5]
    assert (np.diff(first["logloss"].to_numpy()) > 0).all()
    assert points.frame["mean"].is_between(0, 1).all()
    run = made.inner()
    weights = run.read(np.arange(300), [], lambda calls, output: {"w": output.extras["transfer"]})["w"]
    members = np.random.default_rng(0).choice(300, 250, replace=False)
    members = members[(run.labels[members, 0] == 1) & (run.labels[members, 1] == 1)]
    easiest = members[np.argsort(-run.logits[members, 1])][:5]  # of label 1 the highest score has the smallest LogLoss
    assert first["mean"][0] == pytest.approx(weights[easiest, 1].mean(), abs=1e-6)
    assert first["std"][0] == pytest.approx(weights[easiest, 1].std(), abs=1e-6)
    look(points, spec)


def test_steps_of_apem(compose: Any) -> None:
    spec = spec_of("apem_figure5")
    made = Made(Wanted("APEM", ()), 1, compose("model=apem"))
    points = KINDS[spec.draw].points([made], spec)
    gammas = dict(points.frame.select("step", "gamma").unique().iter_rows())
    assert gammas == pytest.approx({0: 10, 10000: 8, 20000: 6, 30000: 4, 40000: 2, 45000: 1, 49000: 0.2, 50000: 1e-3})
    at_one = points.frame.filter(step=0).filter((pl.col("z") - 1).abs() < 1e-9)
    assert at_one["f"].to_list() == pytest.approx([0.648]), "spec 1.9: f_D(1; 10)"
    assert any("49,995 steps" in note for note in points.notes)
    assert look(points, spec) == look(points, spec), "the same each time"


def test_selection_of_apem(dataset: Path, finished: Finish) -> None:
    spec = spec_of("apem_figure7", share=0.05, rows=200)
    made = of_run(finished(dataset, "model=apem", "model.dim=4", "model.bottom.layers=2", "model.bottom.inducing=5"))
    points = KINDS[spec.draw].points([made], spec)
    counted = points.frame.filter(part="rates")
    for layer in ("1", "2", "all"):
        of_layer = counted.filter(layer=layer)
        assert of_layer["rows"].sum() == 200
        assert of_layer["share"].sum() == pytest.approx(1)
        assert of_layer["rate"].is_between(0, 1).all()
    shown = points.frame.filter(part="rows")
    assert shown["group"].value_counts(sort=True)["count"].to_list() == [10, 10, 10]
    rates = selector.rates(made.inner(), shown["row"].to_numpy())
    np.testing.assert_allclose(shown["rate"], rates.mean(1), atol=1e-6)
    assert any("γ = 10 after 0 optimizer steps, above its floor" in note for note in points.notes)
    look(points, spec)


@pytest.mark.parametrize("inducing", [5, 32, 64, 100])
def test_a_bin_holds_as_many_rates_as_any_other(inducing: int) -> None:
    counts, edges = np.histogram(np.arange(inducing + 1) / inducing, selector._edges(inducing))
    assert counts.sum() == inducing + 1, "all rates from 0 to 1"
    assert len(set(counts[:-1].tolist())) == 1
    assert 5 <= len(edges) - 1 <= 40


def test_cost_of_models(dataset: Path, finished: Finish) -> None:
    spec = spec_of("apem_figure8")
    runs = [of_run(finished(dataset, "model=mmoe", "model.dim=4"), "PLE")]
    runs.append(replace(runs[0], wanted=Wanted("APEM", ())))
    points = KINDS[spec.draw].points(runs, spec)
    line = points.frame.filter(row="APEM").row(0, named=True)
    assert (line["epoch_seconds"], line["test_seconds"], line["params_mb"]) == (2.0, 0.5, 0.1)
    assert (line["train_rows_per_second"], line["test_rows_per_second"]) == (300, 600)
    assert (line["published_epoch_seconds"], line["published_test_seconds"], line["published_params_mb"]) == (1177, 47, 89)
    assert points.frame.filter(row="PLE")["published_params_mb"].to_list() == [None]
    look(points, spec)
    assert runs[0].run is not None
    runs[0].run.write_finished("other", {})
    with pytest.raises(SeqmtlError, match="tells no epoch_seconds"):
        KINDS[spec.draw].points([replace(runs[0])], spec)


def test_maps_of_tasks(dataset: Path, finished: Finish) -> None:
    spec = spec_of("dtrn_figure1b", rows=25)
    made = of_run(finished(dataset, "model=ple", "model.dim=4"))
    points = KINDS[spec.draw].points([made], spec)
    assert points.frame["task"].to_list() == ["click", "purchase"] * 25
    assert points.frame["row"].n_unique() == 25
    look(points, spec)
    with pytest.raises(SeqmtlError, match=r"figure\.what must be one of"):
        KINDS[spec.draw].points([made], with_options(spec, {"what": "gates"}))


def test_maps_of_interests_tell_how_long_the_histories_are(dataset: Path, with_histories: list[str], finished: Finish) -> None:
    spec = spec_of("dtrn_figure5", rows=80, above=3, histories=["seen", "passed"])
    made = of_run(finished(dataset, *DTRN, *with_histories))
    points = KINDS[spec.draw].points([made], spec)
    run = made.inner()
    for history in ("seen", "passed"):
        lengths, some = run.lengths(history), points.frame.filter(history=history)
        assert len(some) == 160
        np.testing.assert_array_equal(some["length"], lengths[some["row"].to_numpy()])
        note = next(note for note in points.notes if note.startswith(history))
        enough = (lengths > 3).sum()
        assert enough < 80
        assert f"{enough} test rows have more than 3 items, fewer than the 80 asked for" in note
        assert f"down to {some['length'].min()} item" in note
        assert some["length"].min() >= np.sort(lengths)[-80]
    look(points, spec)


def curve_runs(values: Mapping[tuple[str, str, int], float], compose: Any, tmp_path: Path) -> list[Made]:
    """Runs of which nothing but the AUC is there."""
    made = []
    for number, ((row, point, seed), auc) in enumerate(values.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "metrics.json").write_text(f'{{"test/auc/click": {auc}, "test/auc/purchase": null}}')
        made.append(Made(Wanted(row, (), "d", point), seed, compose("model=mmoe"), Run(folder)))
    return made


def test_curves_are_means_over_seeds(compose: Any, tmp_path: Path) -> None:
    values = {("DMT", "8", 1): 0.6, ("DMT", "8", 2): 0.7, ("DTRN", "8", 1): 0.8, ("DTRN", "8", 2): 0.8, ("DTRN", "16", 1): 0.9}
    spec = spec_of("dtrn_figure4")
    points = KINDS[spec.draw].points(curve_runs(values, compose, tmp_path), spec)
    lines = {(line["row"], line["x"]): line for line in points.frame.iter_rows(named=True)}
    assert lines["DMT", 8.0]["mean"] == pytest.approx(0.65)
    assert lines["DMT", 8.0]["std"] == pytest.approx(0.1 / 2**0.5), "the sample's"
    assert lines["DMT", 8.0]["values"] == "1:0.600000 2:0.700000"
    assert (lines["DTRN", 16.0]["std"], lines["DTRN", 16.0]["seeds"]) == (0, 1)
    assert set(points.frame["task"]) == {"click"}
    assert any("one class" in note and "purchase" in note for note in points.notes)
    look(points, spec)


def test_the_natural_share_is_that_of_the_training_rows(dataset: Path, compose: Any, tmp_path: Path) -> None:
    meta = (dataset / "meta.json").read_text()
    (dataset / "meta.json").write_text(meta[:-1] + ', "positives": {"train": {"purchase": 150}}}')
    panel = Panel("d", {"natural": (), "0.5": ()}, "", "λ", "log", "dataset.downsample.rate", "purchase")
    spec = replace(spec_of("aitm_figure5"), panels=(panel,))
    runs = curve_runs({("AITM", "natural", 1): 0.6, ("AITM", "0.5", 1): 0.7}, compose, tmp_path)
    runs = [replace(made, config={**made.config, "data_dir": str(dataset.parent)}) for made in runs]
    points = KINDS[spec.draw].points(runs, spec)
    assert points.frame["x"].to_list() == [0.25, 0.5]
    look(points, spec)


def test_categories_stand_side_by_side(compose: Any, tmp_path: Path) -> None:
    spec = with_options(read_figure("aitm_figure5", [CONF]), {"panels": ["d"]})
    panel = replace(spec.panels[0], tasks=("click",))
    runs = curve_runs({("AITM", label, 1): 0.6 + 0.01 * i for i, label in enumerate(panel.points)}, compose, tmp_path)
    points = KINDS[spec.draw].points(runs, replace(spec, panels=(panel,)))
    assert points.frame["x"].to_list() == [0, 1, 2, 3, 4]
    assert not any("one class" in note for note in points.notes), "the other task is not asked for"
    look(points, replace(spec, panels=(panel,)))


def test_files_are_written_whole(tmp_path: Path, compose: Any) -> None:
    spec = spec_of("apem_figure5", steps=[0])
    points = KINDS[spec.draw].points([Made(Wanted("APEM", ()), 1, compose("model=apem"))], spec)
    assert points.frame["f"].to_list() == pytest.approx(smooth_step(pl_tensor(points.frame["z"]), 10.0).tolist())
    paths = drawing.write(tmp_path / "a" / "b", "mine", points, KINDS[spec.draw].draw(points, spec))
    assert [path.name for path in paths] == ["mine.csv", "mine.png", "mine.svg"]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["mine.csv", "mine.png", "mine.svg"]
    assert paths[0].read_text() == points.to_csv()


def pl_tensor(column: pl.Series) -> Any:
    import torch

    return torch.tensor(column.to_list(), dtype=torch.float64)
