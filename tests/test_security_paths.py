"""No name in a config or a dataset, and no link inside a dataset, leads out of the folder that it belongs in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from seqmtl.build import stages
from seqmtl.data.meta import read_meta
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.prepare import verb
from seqmtl.prepare.check_findings import Findings
from seqmtl.prepare.check_meta import check_meta
from seqmtl.prepare.writer import DatasetWriter
from seqmtl.runs import run_directory

LEADS_OUT = ("../out", "/out", "a/b", "..", ".", "", ".hidden", "a\0b", "a\nb")


@pytest.mark.parametrize("name", LEADS_OUT)
@pytest.mark.parametrize("key", ["dataset", "model", "loss"])
def test_a_run_lies_below_output_dir(compose: Any, key: str, name: str) -> None:
    config = compose("model=mmoe")
    config[key]["name"] = name
    with pytest.raises(SeqmtlError, match=rf"{key}\.name cannot be"):
        run_directory(config)


def test_a_seed_stays_below_output_dir(compose: Any) -> None:
    with pytest.raises(SeqmtlError, match="the folder of a seed cannot be"):
        run_directory(compose("model=mmoe") | {"seed": "1/../../../out"})


@pytest.mark.parametrize("name", LEADS_OUT)
def test_a_dataset_lies_below_data_dir(compose: Any, tmp_path: Path, name: str) -> None:
    config = compose("model=mmoe") | {"data_dir": str(tmp_path / "data")}
    config["dataset"]["name"] = name
    with pytest.raises(SeqmtlError, match=r"dataset\.name cannot be"):
        open_dataset(config)
    with pytest.raises(SeqmtlError, match=r"dataset\.name cannot be"):
        verb.run(OmegaConf.create(config | {"overwrite": True}))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LEADS_OUT)
def test_a_stage_lies_below_its_run(name: str) -> None:
    with pytest.raises(SeqmtlError, match="a stage cannot be named"):
        stages({"model": {"stages": {name: {}}}})


def changed(dataset: Path, key: str, name: str, value: Any) -> None:
    meta = json.loads((dataset / "meta.json").read_text())
    meta.setdefault(key, {})[name] = value
    (dataset / "meta.json").write_text(json.dumps(meta))


PLACES = [("fields", 3), ("parents", None), ("histories", {"field": "item", "items": 0}), ("bags", {"size": 2, "items": 0})]


def first_found(dataset: Path) -> str:
    """What `seqmtl prepare check=true` says of a meta.json because of which it reads no further."""
    findings = Findings()
    assert check_meta(dataset, findings) is None
    ((message,),) = findings.errors.values()
    return message


@pytest.mark.parametrize(("key", "value"), [*PLACES, ("shards", {"rows": 1, "bytes": 1})])
@pytest.mark.parametrize("name", ["../out", "/out", "train/../../out.parquet", "train//etc/passwd", ".", "a\0b"])
def test_names_in_a_meta_json_stay_inside_the_dataset(dataset: Path, key: str, value: Any, name: str) -> None:
    changed(dataset, key, name, value)
    with pytest.raises(SeqmtlError, match=rf"meta\.json is damaged: .* in {key} cannot be"):
        read_meta(dataset)
    assert f" in {key} cannot be" in first_found(dataset)


def test_shards_may_lie_in_folders_of_a_split(dataset: Path) -> None:
    changed(dataset, "shards", "train/day=1/part 0.parquet", {"rows": 1, "bytes": 1})
    assert "train/day=1/part 0.parquet" in read_meta(dataset).shards


@pytest.mark.parametrize(
    "place", ["train/000.parquet", "train", "histories/seen.npy", "bags", "oracle/test.parquet", "meta.json", "loop"]
)
def test_a_link_that_leads_out_of_a_dataset_is_not_followed(dataset: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    link = dataset / place
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(outside)
    elif place == "loop":
        outside = link
    link.symlink_to(outside)
    with pytest.raises(SeqmtlError, match=f"{place} is a link that leads out of"):
        read_meta(dataset)
    assert f"{place} is a link that leads out of" in first_found(dataset)


def test_links_inside_a_dataset_and_to_one_are_the_users_own_choice(dataset: Path, tmp_path: Path) -> None:
    (dataset / "train" / "000.parquet").rename(dataset / "train" / "zero.parquet")
    (dataset / "train" / "000.parquet").symlink_to("zero.parquet")
    (tmp_path / "elsewhere").symlink_to(dataset, target_is_directory=True)
    (tmp_path / "data_elsewhere").symlink_to(dataset.parent, target_is_directory=True)
    expected = read_meta(dataset)
    assert read_meta(tmp_path / "elsewhere") == expected
    assert read_meta(tmp_path / "data_elsewhere" / dataset.name) == expected


@pytest.mark.parametrize(
    "names", [{"fields": ["../f"]}, {"parents": {"../t": None}}, {"bags": ["../b"]}, {"histories": {"/h": "f"}}]
)
def test_a_converter_writes_inside_its_dataset(tmp_path: Path, names: dict[str, Any]) -> None:
    given = {"fields": ["f"], "parents": {"t": None}} | names
    with pytest.raises(SeqmtlError, match="the name of a field, task, history or bag cannot be"):
        DatasetWriter(tmp_path / "dataset", **given)
    assert list(tmp_path.iterdir()) == []
