"""OMoE, and the mixtures' formulas written out on the raw weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqmtl.models.mmoe import MMoE
from seqmtl.models.omoe import OMoE
from seqmtl.models.shared_bottom import SharedBottom
from seqmtl.types import Features, Field, Schema, Task

SCHEMA = Schema((Field("a", 7),), (Task("x"), Task("y"), Task("z")))
NOTHING = Features(torch.zeros(1, 1, 1), lambda field, ids: ids)
SIZES: dict[str, Any] = {"experts": 3, "dims": [8, 4], "tower_dims": [5]}
Z = torch.randn(9, 1, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def started(trunk: nn.Module) -> nn.Module:
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.5)
    return trunk


def written_out(weights: dict[str, Tensor], z: Tensor, gate: str, gate_of: list[int]) -> Tensor:
    """One row, one expert, one layer at a time: z (B,W) → (B,T,H)."""

    def stack(part: str, n: int, x: Tensor) -> Tensor:
        layers = sorted({name.split(".")[2] for name in weights if name.startswith(f"{part}.layers")})
        for layer in layers:
            name = f"{part}.layers.{layer}.0"
            x = torch.clamp(weights[f"{name}.weight"][n] @ x + weights[f"{name}.bias"][n], min=0)
        return x

    rows = []
    for row in z:
        tasks = []
        for t, n in enumerate(gate_of):
            scores = torch.exp(weights[f"{gate}.weight"][n] @ row + weights[f"{gate}.bias"][n])
            mixed = sum(scores[k] / scores.sum() * stack("experts", k, row) for k in range(len(scores)))
            tasks.append(stack("towers", t, mixed))
        rows.append(torch.stack(tasks))
    return torch.stack(rows)


@pytest.mark.parametrize(("trunk", "gate", "gate_of"), [(OMoE, "gate", [0, 0, 0]), (MMoE, "gates", [0, 1, 2])])
def test_the_trunk_is_its_formula(trunk: Any, gate: str, gate_of: list[int]) -> None:
    made = started(trunk(SCHEMA, 3, 6, **SIZES))
    h = made(Z, NOTHING)
    assert h.std(0).sum(-1).min() > 0.1, "rows must differ for each task, or the comparison says nothing"
    torch.testing.assert_close(h, written_out(made.state_dict(), Z[:, 0], gate, gate_of))


def test_mmoe_with_tied_gates_is_omoe() -> None:
    omoe, mmoe = started(OMoE(SCHEMA, 3, 6, **SIZES)), MMoE(SCHEMA, 3, 6, **SIZES)
    weights = {k.replace("gate.", "gates."): v for k, v in omoe.state_dict().items()}
    mmoe.load_state_dict({k: v.expand(3, *v.shape[1:]) if "gates" in k else v for k, v in weights.items()})
    torch.testing.assert_close(omoe(Z, NOTHING), mmoe(Z, NOTHING))


def test_one_expert_is_shared_bottom() -> None:
    omoe, shared = started(OMoE(SCHEMA, 3, 6, **SIZES | {"experts": 1})), SharedBottom(SCHEMA, 3, 6, dims=[8, 4], tower_dims=[5])
    shared.shared.load_state_dict(omoe.experts.state_dict())
    shared.towers.load_state_dict(omoe.towers.state_dict())
    torch.testing.assert_close(omoe(Z, NOTHING), shared(Z, NOTHING))


@pytest.mark.parametrize("expert", [0, 2])
def test_an_open_gate_is_shared_bottom_with_that_expert(expert: int) -> None:
    omoe, shared = started(OMoE(SCHEMA, 3, 6, **SIZES)), SharedBottom(SCHEMA, 3, 6, dims=[8, 4], tower_dims=[5])
    omoe.gate.bias.data[:, expert] = 1e4
    shared.shared.load_state_dict({k: v[expert : expert + 1] for k, v in omoe.experts.state_dict().items()})
    shared.towers.load_state_dict(omoe.towers.state_dict())
    torch.testing.assert_close(omoe(Z, NOTHING), shared(Z, NOTHING))


def test_without_towers_all_tasks_read_the_mixture() -> None:
    h = started(OMoE(SCHEMA, 3, 6, **SIZES | {"tower_dims": []}))(Z, NOTHING)
    assert h.shape == (9, 3, 4)
    assert torch.equal(h[:, 0], h[:, 2])
    assert OMoE(SCHEMA, 3, 6, **SIZES, gate_bias=False).gate.bias is None


@pytest.mark.parametrize(("trunk", "gate"), [(OMoE, "gate"), (MMoE, "gates")])
def test_the_gates_weigh_by_shares_that_sum_to_one(trunk: Any, gate: str) -> None:
    """Experts that say 1 whatever they read: any mixture of them says 1; scaled by k+1, it tells the mean of k+1 over the gate."""
    made = started(trunk(SCHEMA, 3, 6, experts=3, dims=[4], tower_dims=[]))
    layer = made.experts.layers[0][0]
    nn.init.zeros_(layer.weight)
    nn.init.ones_(layer.bias)
    torch.testing.assert_close(made(Z, NOTHING), torch.ones(9, 3, 4))
    layer.bias.data *= torch.tensor([1.0, 2.0, 3.0]).unsqueeze(1)
    shares = getattr(made, gate)(Z).softmax(-1)
    wanted = (shares * torch.tensor([1.0, 2.0, 3.0])).sum(-1, keepdim=True).expand(-1, 3, 4)
    torch.testing.assert_close(made(Z, NOTHING), wanted)
