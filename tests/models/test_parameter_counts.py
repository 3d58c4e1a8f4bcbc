"""Parameters of the real configs against the spec's table: 18 fields, two tasks, AITM's vocabulary. Nothing is allocated."""

from __future__ import annotations

import pytest
import torch
from model_cases import Compose
from torch import nn

from seqmtl.build import build
from seqmtl.types import Field, Schema, Task

ROWS = 1_283_090  # of all tables
TASKS = (Task("click"), Task("purchase", "click"))
SCHEMA = Schema((*(Field(f"f{i}", 70_000) for i in range(17)), Field("f17", ROWS - 17 * 70_000)), TASKS)


def counts(compose: Compose, *overrides: str) -> tuple[int, int]:
    """Parameters in embeddings, and all others."""
    with torch.device("meta"):
        model: nn.Module = build(compose(*overrides)["model"], schema=SCHEMA)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    embedding = sum(n for name, n in sizes.items() if "embedding" in name)
    return embedding, sum(sizes.values()) - embedding


DENSE = [
    # The models' own YAMLs, at both widths.
    (["model=single_task"], 2 * 22_017),
    (["model=single_task", "model.dim=18"], 2 * 51_969),
    (["model=single_task", "model.trunk.dims=[256,128,64]", "model.trunk.dropout=0"], 2 * 64_513),
    (["model=shared_bottom"], 72_834),
    (["model=shared_bottom", "model.dim=18"], 132_738),
    (["model=mmoe"], 34_490),
    (["model=mmoe", "model.dim=18"], 96_266),
    (["model=omoe"], 34_126),
    (["model=omoe", "model.dim=18"], 94_966),
    (["model=ple"], 34_308),
    (["model=ple", "model.dim=18"], 95_616),
    (["model=esmm"], 44_034),
    (["model=esmm", "model.dim=18"], 103_938),
    (["model=escm2"], 44_034),
    (["model=escm2", "model.dim=18"], 103_938),
    (["model=escm2", "loss=escm2_dr"], 66_051),
    (["model=escm2", "loss=escm2_dr", "model.dim=18"], 155_907),
    (["model=aitm"], 48_162),
    (["model=aitm", "model.dim=18"], 108_066),
    (["model=man"], 720_306),
    (["model=man", "model.trunk.tower_dims=[128,64,32]"], 735_762),
    (["model=man", "model.dim=18"], 1_442_898),
    (["model=man", "model.dim=18", "model.trunk.tower_dims=[128,64,32]"], 1_458_354),
    (["model=apem"], 261_586),
    (["model=apem", "model.bottom.projections=shared"], 257_698),
    (["model=apem", "model.bottom.projections=raw"], 253_810),
    # Presets.
    (["model=single_task", "experiment=aitm"], 2 * 22_017),
    (["model=single_task", "experiment=apem"], 2 * 124_417),
    (["model=shared_bottom", "experiment=aitm"], 72_834),
    (["model=shared_bottom", "experiment=apem"], 132_738),
    (["model=mmoe", "experiment=aitm"], 34_490),
    (["model=mmoe", "experiment=apem"], 483_626),
    (["model=omoe", "experiment=aitm"], 34_126),
    (["model=ple", "experiment=aitm"], 34_308),
    (["model=ple", "experiment=apem"], 482_976),
    (["model=esmm", "experiment=aitm"], 44_034),
    (["model=esmm", "experiment=apem"], 103_938),
    (["model=escm2", "experiment=aitm"], 44_034),
    (["model=escm2", "experiment=apem", "loss=escm2_dr"], 155_907),
    (["model=aitm", "experiment=aitm"], 48_162),
    (["model=aitm", "experiment=apem"], 108_066),
    (["model=apem", "experiment=apem"], 261_586),
    (["model=man", "experiment=man"], 720_306),
    (["model=mmoe", "experiment=man", "model.trunk.tower_dims=[128,64,32]"], 504_754),
    (["model=ple", "experiment=man", "model.trunk.tower_dims=[128,64,32]"], 734_726),
    (["model=esmm", "experiment=man"], 44_034),
    (["model=aitm", "experiment=man"], 48_162),
]
MAN_MMOE = ["model=mmoe", "model.trunk.experts=8", "model.trunk.dims=[256,128]", "model.trunk.tower_dims=[128,64,32]"]


@pytest.mark.parametrize(("overrides", "wanted"), DENSE, ids=lambda x: " ".join(x) if isinstance(x, list) else str(x))
def test_dense_parameters(compose: Compose, overrides: list[str], wanted: int) -> None:
    assert counts(compose, *overrides)[1] == wanted


@pytest.mark.parametrize(("dim", "wanted"), [(5, 504_754), (18, 987_730)])
def test_dense_parameters_of_mans_mmoe(compose: Compose, dim: int, wanted: int) -> None:
    assert counts(compose, *MAN_MMOE, "model.trunk.dropout=0", f"model.dim={dim}")[1] == wanted


def test_aitms_embeddings(compose: Compose) -> None:
    assert counts(compose, "model=aitm", "experiment=aitm")[0] == 6_415_450


@pytest.mark.parametrize(("model", "wanted", "digits"), [("single_task", 177.2, 1), ("apem", 89.10, 2), ("aitm", 88.52, 2)])
def test_sizes_of_apems_figure_8(compose: Compose, model: str, wanted: float, digits: int) -> None:
    mib = 4 * sum(counts(compose, f"model={model}", "experiment=apem")) / 2**20
    assert round(mib, digits) == wanted
