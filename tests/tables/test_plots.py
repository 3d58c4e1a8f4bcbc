"""What is drawn where, and that the SVG can stand in a page beside others."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from large_table import large_table
from tables_by_hand import CLICK, LOSS, PURCHASE, cell, reliability, small_table

from seqmtl.tables import plots
from seqmtl.tables.content import Cell, Part, Published, Row
from seqmtl.tables.ranking import Ranking
from seqmtl.tables.svg import GREY, VERMILION

PUBLIC, REAL = small_table().parts


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """drawn(plot, …) → the axes in place of their SVG, and the whole figure's legend."""
    monkeypatch.setattr(plots, "svg", lambda drawing, name, words: drawing)

    def draw(plot: Any, *arguments: Any) -> Any:
        return plot(*arguments, "name").axes[0]

    return draw


def lines(axes: Any, marker: str) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() == marker]


def test_a_dot_for_each_seed_and_an_interval(drawn: Any) -> None:
    axes = drawn(plots.seeds_plot, PUBLIC, CLICK)
    dots = lines(axes, "o")
    assert [list(dot.get_xdata()) for dot in dots] == [list(row.cells["click.auc"].values.values()) for row in PUBLIC.table_rows]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["LightGBM", "MMoE", "w/o_AIT [R]", "AITM"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row at the top
    assert [dot.get_color() for dot in dots][-1] == VERMILION
    means = [line.get_xdata()[0] for line in lines(axes, "|")]
    assert means == pytest.approx([row.cells["click.auc"].mean for row in PUBLIC.table_rows])
    assert axes.get_xlabel() == "oracle, outside: 0.6320"
    assert not lines(axes, "D")  # published, but not comparable


def test_interval_is_students() -> None:
    from scipy.stats import t

    values = [0.604, 0.605, 0.6049]
    low, high = t.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / 3**0.5)
    assert plots.half_interval(values) == pytest.approx((high - low) / 2)
    assert plots.half_interval([0.5]) is None


def test_an_interval_of_two_seeds_is_cut_with_arrows(drawn: Any) -> None:
    axes = drawn(plots.seeds_plot, REAL, CLICK)
    assert len(lines(axes, "<")) == len(lines(axes, ">")) == 2
    low, high = axes.get_xlim()
    assert high - low < 0.1  # 12.7 standard errors would be 0.127 on either side
    assert [list(mark.get_xdata()) for mark in lines(axes, "D")] == [[0.7]]  # comparable, so it is shown


def test_undefined_rows_have_no_place_and_nothing_gives_no_plot(drawn: Any) -> None:
    axes = drawn(plots.seeds_plot, PUBLIC, LOSS)
    assert [list(dot.get_xdata()) for dot in lines(axes, "o")][2] == [0.0018]
    assert [line.get_linestyle() for line in axes.lines if list(line.get_xdata()) == [0.00171, 0.00171]] == ["--"]
    axes = drawn(plots.seeds_plot, PUBLIC, PURCHASE)
    assert len(lines(axes, "o")) == 3
    empty = replace(PUBLIC, table_rows=(Row("A", cells={"click.auc": Cell(published=Published(0.7))}),))
    assert plots.seeds_plot(empty, CLICK, "x") == ""


def test_ranks_have_bars_of_the_critical_difference(drawn: Any) -> None:
    ranking = Ranking("AUC", ("a", "b", "c"), np.array([2.5, 1.0, 2.5]), (1, 2), ("click AUC",), 1.2, 0.1, ())
    axes = drawn(plots.ranks_plot, ranking, ["a"])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a", "c"]  # the best at the top
    bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars, [[0.4, 1.6], [1.9, 3.1], [1.9, 3.1]])


def test_calibration_is_logarithmic_where_rates_are_small(drawn: Any) -> None:
    axes = drawn(plots.reliability_plot, PUBLIC, "purchase")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 9, 9, 9, 9]  # the diagonal; a tenth without positives is not drawn
    often = Row("A", reliability={"click": [[0.1, 0.2, 9], [0.5, 0.4, 9], [0.9, 0.0, 9]]})
    axes = drawn(plots.reliability_plot, replace(PUBLIC, table_rows=(often,)), "click")
    assert axes.get_xscale() == "linear"
    assert list(axes.lines[1].get_ydata()) == [0.2, 0.4, 0.0]
    assert plots.reliability_plot(PUBLIC, "like", "x") == ""


def test_training_by_epoch_on_validation_and_by_step_otherwise(drawn: Any) -> None:
    axes = drawn(plots.training_plot, PUBLIC, "val/auc/click")
    assert axes.get_xlabel() == "epoch"
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3, 4]] * 9  # three rows, three seeds
    axes = drawn(plots.training_plot, PUBLIC, "train/loss")
    assert axes.get_xlabel() == "step"
    assert list(axes.lines[0].get_xdata()) == [10, 20, 30, 40]
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert sorted(legend) == ["AITM", "MMoE", "w/o_AIT [R]"]  # once each


def test_a_loss_that_diverged_has_no_point(drawn: Any) -> None:
    row = Row("A", training={"train/loss": {1: [[1, 0.5], [2, float("nan")], [3, None], [4, 0.4]]}})  # type: ignore[list-item]
    axes = drawn(plots.training_plot, replace(PUBLIC, table_rows=(row,)), "train/loss")
    assert list(axes.lines[0].get_xdata()) == [1, 4]


def test_many_points_become_their_means() -> None:
    x, y = plots.thinned(range(1000), [float(i % 10) for i in range(1000)], 100)
    assert len(x) == 100
    assert y == [4.5] * 100
    np.testing.assert_allclose(x[:2], [4.5, 14.5])
    assert plots.thinned([1, 2], [3, 4], 100) == ([1, 2], [3, 4])


def test_of_many_rows_some_have_a_colour_and_the_rest_is_grey(drawn: Any) -> None:
    (part,) = large_table(tasks=("click",), seeds=2).parts
    axes = drawn(plots.reliability_plot, part, "click")
    curves = axes.lines[1:]
    coloured = {line.get_color() for line in curves} - {GREY}
    assert len(curves) == 21
    assert len(coloured) == 6
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert {"AITM", "APEM", "MAN", "DTRN"} < set(legend)
    assert legend[-1] == "15 other rows"


def test_efficiency_is_bars_with_their_numbers(drawn: Any) -> None:
    axes = drawn(plots.efficiency_plot, PUBLIC, "test_rows_per_second")
    assert [bar.get_width() for bar in axes.patches] == [812345.0, 40123.0, 51000.0, 47000.0]
    assert [text.get_text() for text in axes.texts] == ["812,345", "40,123", "51,000", "47,000"]
    assert plots.efficiency_plot(PUBLIC, "train_rows_per_second", "x") == ""
    assert len(drawn(plots.efficiency_plot, PUBLIC, "params_mb").patches) == 3  # LightGBM has no parameters


def odd() -> Part:
    row = Row('<b>& "$x$" url(#y)', cells={"click.auc": cell({1: 0.5, 2: 0.6})})
    return replace(REAL, table_rows=(row, *REAL.table_rows))


def test_svg_is_one_well_formed_element_without_links() -> None:
    text = plots.seeds_plot(odd(), CLICK, "s0")
    root = ET.fromstring(text)
    assert root.tag == "svg"
    assert "http" not in text
    assert "<style" not in text
    assert "font-family" not in text
    assert "currentColor" in text
    assert "#010203" not in text
    assert any(shown == '<b>& "$x$" url(#y)' for element in root.iter() if (shown := element.text))
    assert root.attrib["aria-label"].startswith('click AUC by seed: <b>& "$x$" url(#y) 0.55; ')


def test_ids_are_the_plots_own_and_all_references_are_met() -> None:
    first, second = (plots.seeds_plot(REAL, CLICK, name) for name in ("s0", "s1"))
    ids = [re.findall(r' id="([^"]+)"', text) for text in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', first)) == set(ids[0])
    assert len(ids[0]) == len(set(ids[0]))


def test_a_users_matplotlibrc_changes_nothing_and_is_not_changed() -> None:
    part = replace(PUBLIC, table_rows=(Row("A", reliability=reliability(1.0)),))
    before = plots.reliability_plot(part, "click", "c0")
    with matplotlib.rc_context({"axes.grid": False, "font.size": 30, "svg.fonttype": "path"}):
        assert plots.reliability_plot(part, "click", "c0") == before
        assert matplotlib.rcParams["font.size"] == 30
