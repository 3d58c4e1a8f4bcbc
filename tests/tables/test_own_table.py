"""A table of one's own: what its YAML may say, and what is refused in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import CONF
from seqmtl.errors import SeqmtlError
from seqmtl.tables.measures import MEASURES
from seqmtl.tables.spec import OF_MEASURE, RowSpec, TableSpec, needs_runs, printed, read_table

GOOD = """
title: A table
rows: {A: [model=mmoe], B: {overrides: [model=aitm], ours: true, against: A}}
parts:
  all: {datasets: [aliccp_sim, aliccp], published_on: [aliccp], columns: [click.auc], published: {A: [0.5 ± 0.1 *], B: ["-"]}}
"""


def read(tmp_path: Path, content: Any) -> TableSpec:
    (tmp_path / "table").mkdir(exist_ok=True)
    (tmp_path / "table" / "own.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return read_table("own", [CONF, tmp_path])


def test_a_table_of_ones_own_is_read(tmp_path: Path) -> None:
    (part,) = read(tmp_path, GOOD).parts
    assert [row.label for row in part.rows] == ["A", "B"]
    assert part.rows[1] == RowSpec("B", ("model=aitm",), True, "A")
    assert part.published == {"A": (printed("0.5 ± 0.1 *"),), "B": (None,)}
    assert part.on("aliccp") == ("dataset=aliccp",)
    content = yaml.safe_load(GOOD)
    content["overrides"] = ["experiment=aitm"]
    content["parts"]["all"] |= {"overrides": ["seed=3"], "datasets": {"aliccp_sim": ["batch_size=64"], "aliccp": None}}
    content["parts"]["all"]["rows"] = {"A": ["model=ple"], "C": ["model=omoe"]}
    (part,) = read(tmp_path, content).parts
    assert part.datasets == ("aliccp_sim", "aliccp")
    assert part.on("aliccp_sim") == ("experiment=aitm", "seed=3", "dataset=aliccp_sim", "batch_size=64")
    assert part.on("aliccp") == ("experiment=aitm", "seed=3", "dataset=aliccp")
    assert [(row.label, row.overrides) for row in part.rows] == [
        ("A", ("model=ple",)),
        ("B", ("model=aitm",)),
        ("C", ("model=omoe",)),
    ]


@pytest.mark.parametrize(
    ("where", "key", "value", "said"),
    [
        ((), "colums", [], "colums, which nothing reads"),
        (("parts", "all"), "gains", {}, "part all has gains, which nothing reads"),
        (("rows", "B"), "override", [], "row B has override, which nothing reads"),
        (("rows", "B"), "against", "Z", "names rows that it does not have: Z"),
        (("parts", "all"), "gain", {"over": "Z", "kind": "absolute"}, "names rows that it does not have: Z"),
        (("parts", "all"), "gain", {"over": "A", "kind": "percent"}, "absolute or relative, not percent"),
        (("parts", "all"), "published", {"Z": [0.5]}, "names rows that it does not have: Z"),
        (("parts", "all"), "published", {"A": [0.5, 0.6]}, "2 published values for 1 columns"),
        (("parts", "all"), "published", {"A": ["about 0.5"]}, "'about 0.5' is no published value"),
        (("parts", "all"), "published_on", ["tenrec"], "published on tenrec, which is none of its datasets"),
        (("parts", "all"), "columns", ["click"], "a column must be TASK.METRIC"),
        ((), "parts", {}, "it has no parts"),
        (("rows",), "A", "model=mmoe", "row A must be a list of words, [a, b], not 'model=mmoe'"),
        (("rows", "B"), "overrides", "model=aitm", "row B: overrides must be a list of words"),
        (("rows", "B"), "ours", "yes", "row B: ours must be true or false"),
        ((), "overrides", "experiment=aitm", "overrides must be a list of words"),
        ((), "seeds", [1, 1], "seeds must be different whole numbers"),
        ((), "seeds", [1, "x"], "seeds must be different whole numbers"),
        ((), "seeds", [-1], "seeds must be different whole numbers"),
        ((), "seeds", "12", "seeds must be different whole numbers"),
        (("parts", "all"), "datasets", "aliccp_sim", "datasets must be a list of words"),
        (("parts", "all"), "datasets", ["aliccp", "aliccp"], "datasets has aliccp twice"),
        (("parts", "all"), "datasets", [], "there is no dataset"),
        (("parts", "all"), "published_on", "aliccp", "published_on must be a list of words"),
        (("parts", "all"), "remarks", "one", "remarks must be a list of words"),
        (("parts", "all"), "columns", "click.auc", "columns must be a list of words"),
        (("parts", "all"), "columns", ["click.auc", "click.auc: again"], "columns has click.auc twice"),
        (
            ("parts", "all"),
            "columns",
            ["click.acu"],
            "click.acu is no column of a part without a measure: TASK.auc or TASK.logloss",
        ),
        (("parts", "all"), "columns", ["click.gain"], "click.gain is no column of a part without a measure"),
        (("parts", "all"), "rows", {"A": None, "B": None}, "part all has no rows"),
        (("parts", "all"), "published", {"A": 0.5}, "published values of A must be a list"),
        (("parts", "all"), "gain", {"over": "A"}, "KeyError: 'kind'"),
        (("parts", "all"), "options", {"share": 0.1}, "has options, which only a measure has"),
        (("parts", "all"), "measure", "reply", "no measure 'reply'; there are category_in_histories, replay"),
        (("parts", "all"), "measure", "replay", "click.auc is no column of measure: replay: TASK.gain or TASK.gain_seen"),
        ((), "title", None, ""),
    ],
)
def test_what_a_table_may_not_say(tmp_path: Path, where: tuple[str, ...], key: str, value: Any, said: str) -> None:
    content = yaml.safe_load(GOOD)
    node = content
    for name in where:
        node = node[name]
    if value is None:
        del node[key]
    else:
        node[key] = value
    with pytest.raises(SeqmtlError, match=r"own\.yaml is no table") as e:
        read(tmp_path, content)
    assert said in str(e.value)


REPLAY = """
title: A replay
rows: {A: [model=mmoe], B: [model=aitm]}
parts:
  all:
    datasets: [finance_sim]
    measure: replay
    columns: [click.gain]
    options: {pairs: {B vs A: [B, A]}, published: {B vs A: [+3%]}}
"""


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ({"columns": []}, {}, "measure: replay needs columns"),
        ({"columns": ["click.occurrences"]}, {}, "click.occurrences is no column of measure: replay"),
        ({"gain": {"over": "A", "kind": "absolute"}}, {}, "measure: replay has no gain over a row"),
        ({"published": {"A": [0.5]}}, {}, "published values are of its pairs: options.published"),
        ({"measure": "category_in_histories"}, {}, "click.gain is no column of measure: category_in_histories: TASK.occurrences"),
        ({}, {"pair": {}}, "options has pair, which nothing reads"),
        ({}, {"pairs": None}, "a replay needs options.pairs"),
        ({}, {"pairs": {"B vs A": "BA"}}, "options.pairs.B vs A must be two rows"),
        ({}, {"pairs": {"B vs A": ["B", "Z"]}}, "options.pairs.B vs A names Z"),
        ({}, {"published": {"B vs A": ["+3%", "-"]}}, "options.published.B vs A must be of a pair"),
        ({}, {"published": {"B vs A": [3]}}, "a gain is printed as +16.95%"),
        ({}, {"published": ["+3%"]}, "options.published must be {name"),
        ({}, {"share": 1}, "options.share must be a share of the rows"),
        ({}, {"share": "half"}, "options.share must be a share of the rows"),
        ({}, {"repeats": 0}, "options.repeats must be a whole number of at least 1"),
        ({}, {"seed": 0.5}, "options.seed must be a whole number of at least 0"),
    ],
)
def test_what_a_measure_may_not_say(tmp_path: Path, more: dict[str, Any], options: dict[str, Any], said: str) -> None:
    content = yaml.safe_load(REPLAY)
    assert read(tmp_path, content).parts[0].measure == "replay"
    content["parts"]["all"] |= more
    content["parts"]["all"]["options"] |= options
    with pytest.raises(SeqmtlError, match=r"own\.yaml is no table") as e:
        read(tmp_path, content)
    assert said in str(e.value)


def test_the_field_of_a_history_is_text(tmp_path: Path) -> None:
    part = {"datasets": ["tenrec_sim"], "measure": "category_in_histories", "columns": ["click.occurrences"], "rows": {"click": []}}
    content = {"title": "T", "parts": {"all": {**part, "options": {"field": "category"}}}}
    assert not needs_runs(read(tmp_path, content).parts[0])
    content["parts"]["all"]["options"] = {"field": 3}  # type: ignore[index]
    with pytest.raises(SeqmtlError, match=r"options\.field must be a field, not 3"):
        read(tmp_path, content)


def test_each_measure_is_known_to_who_reads_and_to_who_takes_it() -> None:
    assert set(OF_MEASURE) == set(MEASURES)


def test_the_example_of_the_docs_is_a_table(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (CONF.parent / "docs" / "tables.md").read_text(), re.DOTALL)
    (part,) = read(tmp_path, example).parts
    assert part.on("tenrec_sim") == ("experiment=dtrn_tenrec", "dataset=tenrec_sim", "batch_size=256")
    assert [column.title for column in part.columns] == ["click AUC", "likes"]
    assert [row.label for row in part.rows] == ["no histories", "clicks", "all"]
