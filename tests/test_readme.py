"""The README's table of architectures is that of conf/model/, and its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_table_names_every_model_and_no_other() -> None:
    section = (ROOT / "README.md").read_text().split("## Architectures")[1].split("\n## ")[0]
    rows = re.findall(r"^\| .* \| `((?:models/)?\w+\.py)` \| `(\w+)` \|$", section, re.MULTILINE)
    models = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    ablations = {name for name in models if "_wo_" in name}
    assert {name for _, name in rows} == models - ablations
    assert len(rows) == len(models - ablations)
    assert set(re.findall(r"`(\w+_wo_\w+)`", section)) == ablations
    for group in ("loss", "step"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{path.stem}`" in section, path
    for file, _ in rows:
        assert (ROOT / "src" / "seqmtl" / file).is_file()


def test_every_group_file_has_its_own_name() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        parts = path.relative_to(ROOT / "conf").parts
        if (
            len(parts) == 1
            or parts[0] in ("experiment", "preset", "dtrn_trunk", "table", "figure")
            or parts[:2] in (("loss", "paper"), ("loss", "trunk"))
        ):
            continue
        assert yaml.safe_load(path.read_text())["name"] == path.stem, path


def test_every_model_has_its_papers_loss() -> None:
    for path in (ROOT / "conf" / "model").glob("*.yaml"):
        assert (ROOT / "conf" / "loss" / "paper" / path.name).is_file(), path.name


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
