"""The tables that are shipped: each is there and told of, and each row can run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf

from conftest import CONF
from seqmtl.build import build, stage_config, stages
from seqmtl.composing import last_wins
from seqmtl.data.meta import read_meta
from seqmtl.data.prepared import chosen_schema
from seqmtl.plan import Plan
from seqmtl.tables.papers import PAPERS
from seqmtl.tables.spec import PartSpec, RowSpec, TableSpec, needs_runs, read_table, table_names

Compose = Callable[..., dict[str, Any]]
ROOT = CONF.parent
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
