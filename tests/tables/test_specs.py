"""The descriptions of tables: what they may say, that each row can run, and that no published number is mistyped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from seqmtl.build import build, stage_config, stages
from seqmtl.composing import last_wins
from seqmtl.data.meta import read_meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.errors import SeqmtlError
from seqmtl.plan import Plan
from seqmtl.tables.measures import MEASURES
from seqmtl.tables.papers import PAPERS
from seqmtl.tables.spec import OF_MEASURE, PartSpec, RowSpec, TableSpec, needs_runs, printed, read_table, table_names

Compose = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAPERS_TEXT = Path(os.environ.get("SEQMTL_PAPERS", ROOT.parent / "shared" / "papers"))
NAMES = sorted(table_names([CONF]))
TABLES = {name: read_table(name, [CONF]) for name in NAMES}
WANTED = {
    *("aitm_table2", "aitm_table3", "apem_table3", "apem_table4", "apem_table5", "apem_figure9", "man_table1", "man_table2"),
    *(f"dtrn_table{n}" for n in (1, 4, 5, 6, 7, 8, 9)),
    "all_models",
}


class Case(NamedTuple):
    """A row on a dataset, with the words that make its run."""

    table: TableSpec
    part: PartSpec
    row: RowSpec
    dataset: str
    words: tuple[str, ...]


def cases() -> Iterator[Case]:
    for table in TABLES.values():
        for part in filter(needs_runs, table.parts):
            for dataset in part.datasets:
                for row in part.rows:
                    yield Case(table, part, row, dataset, tuple(last_wins([*part.on(dataset), *row.overrides])))


def distinct() -> Iterator[Any]:
    """Each run once. Not slow: the last row of each part, and what is said beside a model and its trunk, once."""
    seen: set[frozenset[str]] = set()
    for case in cases():
        words = frozenset(case.words)
        options = frozenset(word for word in case.row.overrides if not word.startswith(("model=", "model/trunk=", "experiment=")))
        telling = case.row == case.part.rows[-1] or (options and options not in seen)
        slow = not telling or case.dataset != case.part.datasets[0]
        if words not in seen:
            name = f"{case.table.name}-{case.part.name}-{case.row.label}-{case.dataset}"
            yield pytest.param(case, id=name, marks=[pytest.mark.slow] * slow)
        seen |= {words, options}


def test_all_tables_are_there_each_of_a_known_paper() -> None:
    assert set(NAMES) == WANTED
    assert {table.paper for table in TABLES.values()} == {*PAPERS, ""}
    for table in TABLES.values():
        assert bool(table.paper) == bool(table.where), table.name
        assert table.title, table.name
        assert table.about, table.name
        assert table.seeds == (1, 2, 3, 4, 5), table.name


def test_what_a_table_says_of_itself_fits() -> None:
    for table in TABLES.values():
        for part in table.parts:
            where = f"{table.name}, {part.name}"
            assert set(part.published_on) <= {"aliccp"}, where
            assert all((CONF / "dataset" / f"{dataset}.yaml").is_file() for dataset in part.datasets), where
            assert any(row.ours for row in part.rows) != (table.name in ("all_models", "dtrn_table1")), where
            # Simulated data come first: they are what works at once.
            assert part.datasets[0] not in ("aliccp", "tenrec", "kuairand"), where
            if part.published_on:
                assert part.remarks, where
    systems = re.findall(r"^\| .* \| `(?:models/)?\w+\.py` \| `(\w+)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    words = [row.overrides[0] for row in TABLES["all_models"].parts[0].rows]
    assert words == [f"model={name}" for name in systems]
    assert len(words) == 21


def test_tables_of_one_paper_share_their_runs() -> None:
    made = {(c.table.name, c.part.name, c.row.label, c.dataset): frozenset(c.words) for c in cases()}

    def words(table: str, row: str) -> frozenset[str]:
        return made[table, "ecommerce", row, "ecommerce_sim"]

    dmt = {words("dtrn_table4", "AITM"), *(words(f"dtrn_table{n}", "DMT") for n in (5, 6)), words("dtrn_table7", "AITM")}
    assert len(dmt) == 1
    dtrn = {words("dtrn_table4", "DTRN"), words("dtrn_table5", "DTRN"), words("dtrn_table6", "LN (DTRN)")}
    assert len(dtrn | {words("dtrn_table7", "AITM+DTRN")}) == 1
    assert words("dtrn_table4", "DMT (MMoE)") == words("dtrn_table7", "MMoE")
    assert words("dtrn_table4", "PLE") == words("dtrn_table7", "PLE")
    for row in ("LightGBM", "ESMM", "PLE", "AITM"):
        assert made["man_table1", "public", row, "aliccp"] == made["aitm_table2", "public", row, "aliccp"]
    for part, dataset in (("public", "aliccp"), ("industrial", "finance_sim")):
        assert made["apem_table3", part, "APEM", dataset] == made["apem_table4", part, "APEM", dataset]


def put_meta(data: Path, config: dict[str, Any]) -> None:
    """data/<dataset>/meta.json as of another tool, with what the config asks for, so that no rows are needed."""
    dataset = config["dataset"]
    first = dataset["tasks"][0]
    parents = dataset["prepare"].get("parents") or {task: None if task == first else first for task in dataset["tasks"]}
    item = dataset["prepare"].get("item") or ("205" if "aliccp" in dataset["name"] else "item_id")
    rates = (0.2, 0.05, 0.02, 0.005)
    meta = {
        "version": 1,
        "fields": dict.fromkeys([dataset["user"], item, *dataset["profile"]], 20),
        "parents": parents,
        "rows": {"train": 10_000, "valid": 1000, "test": 1000},
        "positives": {"train": {task: int(rate * 10_000) for task, rate in zip(parents, rates, strict=False)}},
        "histories": {name: {"field": item, "items": 100} for name in dataset["histories"]},
    }
    (data / dataset["name"]).mkdir(parents=True)
    (data / dataset["name"] / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("case", list(distinct()))
def test_a_row_composes_is_let_in_and_builds(case: Case, compose: Compose, tmp_path: Path) -> None:
    config = compose(*case.words) | {"data_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "outputs")}
    put_meta(tmp_path / "data", compose(f"dataset={case.dataset}"))
    plan = Plan()
    planned = plan.add(OmegaConf.create(config), sweep=True, overrides=case.words)
    assert not planned.error
    assert planned.run is not None
    columns = {column.task for column in case.part.columns}
    tasks = set(config["dataset"]["tasks"])
    removed = any(word.startswith("dataset.tasks=") for word in case.row.overrides)
    assert columns & tasks if removed else columns <= tasks
    assert planned.config["dataset"]["name"] == case.dataset
    if "runner" not in config["model"]:
        schema = chosen_schema(config, read_meta(tmp_path / "data" / case.dataset))
        for overrides in stages(config).values():
            its_config = stage_config(config, overrides)
            with torch.device("meta"):
                build(its_config["model"], schema=schema)
            build(its_config["loss"], schema)


def test_each_protocol_is_that_of_its_paper(compose: Compose) -> None:
    wanted = {  # batch, rate, most epochs
        ("aitm_table2", "aliccp"): (2000, 1e-3, 100),
        ("apem_table3", "aliccp"): (1024, 1e-3, 100),
        ("man_table2", "aliccp"): (2048, 1e-3, 100),
        ("dtrn_table4", "tenrec"): (2048, 1e-3, 1),
        ("dtrn_table4", "tenrec_sim"): (256, 1e-3, 1),
        ("dtrn_table4", "ecommerce_sim"): (256, 1e-3, 1),
        ("all_models", "kuairand"): (256, 1e-3, 100),
    }
    for (table, dataset), (batch, rate, epochs) in wanted.items():
        case = [c for c in cases() if (c.table.name, c.dataset) == (table, dataset)][-1]
        config = compose(*case.words)
        assert (config["batch_size"], config["optimizer"]["lr"], config["trainer"]["max_epochs"]) == (batch, rate, epochs), table


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


class Place(NamedTuple):
    """Where a part stands in print: its first cell after the label, the group in front of the label, the paper's own labels."""

    first: int = 0
    group: str = ""
    grouped: bool = False
    labels: Mapping[str, str] = MappingProxyType({})


ABLATION = {"APEM w/o L_D-Task": "APEM w/o L𝐷−𝑇𝑎𝑠𝑘"}
OF_MAN = {"MAN": "OURS"}
SEQUENCES = {name: f"{name}_seq" for name in ("watch", "non_watch", "click", "non_click", "entering")}
PLACES = {
    ("aitm_table2", "industrial"): Place(),
    ("aitm_table2", "public"): Place(4),
    ("apem_table3", "public"): Place(),
    ("apem_table3", "industrial"): Place(4),
    ("apem_table4", "public"): Place(labels=ABLATION),
    ("apem_table4", "industrial"): Place(4, labels=ABLATION),
    ("apem_table5", "scene1"): Place(),
    ("apem_table5", "scene2"): Place(2),
    ("man_table1", "public"): Place(labels=OF_MAN),
    ("man_table2", "public"): Place(),
    ("dtrn_table1", "ecommerce"): Place(labels=SEQUENCES),
    ("dtrn_table4", "ecommerce"): Place(group="E-commerce ", grouped=True),
    ("dtrn_table4", "tenrec"): Place(group="Tenrec ", grouped=True),
    **{("dtrn_table" + n, "ecommerce"): Place() for n in "567"},
    ("dtrn_table8", "ecommerce"): Place(grouped=True),
}
HEADING = re.compile(r"\s*\**Table (\d+)[:.]")
VALUE = r"[+-]?\d*\.\d+(?:\s*±\s*[\d.]+)?%?\s*\**|[–-]"
SPACED = re.compile(rf"(\S.{{,30}}?)((?: (?:{VALUE}))+)")  # of a PDF's text: a label, then numbers with blanks between


def rows_in_print(paper: str, where: str, grouped: bool) -> dict[str, list[str]]:
    """{label: its cells} of a table in a paper's text, without markup."""
    text = (PAPERS_TEXT / f"{paper}.txt").read_text(encoding="utf-8")
    number = where.removeprefix("Table ")
    found: dict[str, list[str]] = {}
    group, inside = "", False
    for line in text.splitlines():
        heading = HEADING.match(line)
        inside = heading[1] == number if heading else inside
        if not inside:
            continue
        line = re.sub(r"<[^>]+>", "", line).replace(r"$\pm$", "±").replace(r"\pm", "±")
        cells = line.split("\t")
        if len(cells) == 1:
            spaced = SPACED.fullmatch(line)
            cells = [spaced[1], *spaced[2].split()] if spaced else []
        if grouped and cells:
            group, cells = cells[0] or group, [f"{cells[0] or group} {cells[1]}", *cells[2:]]
        cells = [cell.strip() for cell in cells]
        if len(cells) < 3 or cells[0] == "Gain" or not all(re.fullmatch(f"{VALUE}|", cell) for cell in cells[1:]):
            continue
        label = re.sub(r" \[\d+\]$", "", cells[0])
        assert label not in found, f"{label} stands twice"
        found[label] = cells[1:]
    return found


@pytest.mark.data
@pytest.mark.skipif(not PAPERS_TEXT.is_dir(), reason="no text of the papers: set SEQMTL_PAPERS")
@pytest.mark.parametrize(("name", "part"), PLACES)
def test_published_values_are_those_of_the_papers_text(name: str, part: str) -> None:
    table, place = TABLES[name], PLACES[name, part]
    (spec,) = (p for p in table.parts if p.name == part)
    found = rows_in_print(table.paper, table.where, place.grouped)
    of_part = {label for label in found if label.startswith(place.group)}
    wanted = {row.label: place.group + place.labels.get(row.label, row.label) for row in spec.rows if row.label in spec.published}
    assert set(wanted.values()) == of_part, "all rows of the paper and no other"
    for label, values in spec.published.items():
        cells = found[wanted[label]][place.first : place.first + len(values)]
        assert [printed(cell) for cell in cells] == list(values), label


def test_every_part_with_published_values_is_looked_up() -> None:
    assert set(PLACES) == {(name, part.name) for name, table in TABLES.items() for part in table.parts if part.published}
    unpublished = {
        (name, row.label)
        for name, t in TABLES.items()
        for p in t.parts
        if p.published
        for row in p.rows
        if row.label not in p.published
    }
    assert unpublished == {("man_table2", "MAN, α = 0")}


def test_every_table_has_a_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = dict(re.findall(r"^([a-z0-9-]+): setup  ## .+\n\t\$\(BIN\)/seqmtl table (.+) \$\(RUNS\)$", makefile, re.MULTILINE))
    assert {command.split()[0] for command in targets.values()} == WANTED
    assert targets["reproduce-table2"] == "aitm_table2 part=public dataset=$(DATASET)"
    assert targets["reproduce-table2-industrial"] == "aitm_table2 part=industrial"
    phony = {name for line in re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE) for name in line.split()}
    assert set(targets) <= phony
    for name, command in targets.items():
        if not name.startswith("reproduce"):
            assert command == name.replace("-", "_")


def test_every_table_is_told_of_in_the_docs() -> None:
    told = set(re.findall(r"^### .*\(`(\w+)`\)$", (ROOT / "docs" / "tables.md").read_text(), re.MULTILINE))
    assert told == WANTED


def test_the_example_of_the_docs_is_a_table(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tables.md").read_text(), re.DOTALL)
    (part,) = read(tmp_path, example).parts
    assert part.on("tenrec_sim") == ("experiment=dtrn_tenrec", "dataset=tenrec_sim", "batch_size=256")
    assert [column.title for column in part.columns] == ["click AUC", "likes"]
    assert [row.label for row in part.rows] == ["no histories", "clicks", "all"]
