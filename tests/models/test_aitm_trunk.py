"""AITM: the hand case, and who may influence whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_cases import CHAIN, TREE, Compose, make_batch, make_model
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.errors import SeqmtlError
from seqmtl.losses.aitm import Calibrator
from seqmtl.losses.bce import BCE
from seqmtl.models.aitm import AIT, AITM
from seqmtl.types import Features, Schema, Task


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def ait(k: int, query: Tensor, key: Tensor, value: Tensor) -> AIT:
    """With matrices in the order x W of the paper."""
    module = AIT(k).double()
    for layer, matrix in ((module.w_1, value), (module.w_2, query), (module.w_3, key)):
        layer.weight.data = matrix.double().T.contiguous()
    return module


def trunk(schema: Schema, **options: Any) -> AITM:
    """Wide enough that no ReLU is dead for all rows, and with matrices that are not almost zero."""
    made = AITM(schema, 4, 6, **({"dims": [16, 8], "dropout": 0.0} | options)).double()
    for layer in made.ait.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return made


def features() -> Features:
    return Features(torch.zeros(1, 1, 1), lambda field, ids: ids)


def test_a1_hand_case() -> None:
    eye = torch.eye(2)
    module = ait(2, eye, eye, torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    z, w = module(torch.tensor([[0.0, 2.0]]).double(), torch.tensor([[1.0, 0.0]]).double())
    torch.testing.assert_close(w[0], torch.tensor([0.8929581985, 0.1070418015]).double(), atol=1e-7, rtol=0)
    assert w[0].tolist() == pytest.approx([0.8929581985, 0.1070418015], abs=1e-9)
    assert z[0].tolist() == pytest.approx([0.1070418015, 1.8929581985], abs=1e-9)


def test_a2_without_scores_both_weigh_a_half() -> None:
    zero, value = torch.zeros(3, 3), torch.randn(3, 3)
    p, q = torch.randn(2, 5, 3, dtype=torch.float64)
    z, w = ait(3, zero, zero, value)(p, q)
    assert torch.equal(w, torch.full_like(w, 0.5))
    torch.testing.assert_close(z, (p + q) @ value.double() / 2)
    z, _ = ait(3, zero, zero, torch.eye(3))(torch.zeros_like(q), q)
    torch.testing.assert_close(z, q / 2)


def test_a3_a4_order_does_not_count_and_weights_sum_to_one() -> None:
    module = ait(3, *torch.randn(3, 3, 3))
    p, q = torch.randn(2, 5, 3, dtype=torch.float64)
    (z, w), (swapped, v) = module(p, q), module(q, p)
    torch.testing.assert_close(z, swapped)
    torch.testing.assert_close(w, v.flip(1))
    torch.testing.assert_close(w.sum(1), torch.ones(5).double())
    assert w.std() > 0.01


@pytest.mark.parametrize("alpha", [0.0, 0.6, 5.0])
def test_a5_alpha_weighs_the_calibrator_and_nothing_else(alpha: float, compose: Compose) -> None:
    batch = make_batch(CHAIN)
    output = make_model(compose, CHAIN, "model=aitm")(batch)
    loss = build(compose("model=aitm", f"loss.terms.calibrator.alpha={alpha}")["loss"], CHAIN)
    calibrator = Calibrator(CHAIN, alpha=1.0)(output, batch.y)
    assert calibrator.sum() > 0
    torch.testing.assert_close(sum(loss(output, batch.y).values()), BCE(CHAIN)(output, batch.y) + alpha * calibrator)


def reach(made: AITM, tasks: int) -> list[set[str]]:
    """For each task, the parameters that its output depends on (towers by task)."""
    found = []
    h = made(torch.randn(64, 1, 6, dtype=torch.float64), features())
    for t in range(tasks):
        made.zero_grad()
        h[:, t].square().sum().backward(retain_graph=True)
        names = set()
        for name, parameter in made.named_parameters():
            if parameter.grad is None:
                continue
            if name.startswith("towers"):
                names |= {f"tower{i}" for i, g in enumerate(parameter.grad) if g.any()}
            elif parameter.grad.any():
                names.add(".".join(name.split(".")[:2]))
        found.append(names)
    return found


def test_a7_a_child_reads_its_ancestors_and_nothing_else() -> None:
    assert reach(trunk(CHAIN), 3) == [
        {"tower0"},
        {"tower0", "tower1", "g.0", "ait.0"},
        {"tower0", "tower1", "tower2", "g.0", "g.1", "ait.0"},
    ]


def test_a9_siblings_do_not_meet() -> None:
    assert reach(trunk(TREE, ait_shared=False), 4) == [
        {"tower0"},
        {"tower0", "tower1", "g.0", "ait.0"},
        {"tower0", "tower2", "g.1", "ait.1"},
        {"tower0", "tower2", "tower3", "g.1", "g.2", "ait.1", "ait.2"},
    ]


def test_the_root_is_its_tower_and_the_weights_are_shown() -> None:
    made, z, seen = trunk(CHAIN), torch.randn(5, 1, 6, dtype=torch.float64), features()
    h = made(z, seen)
    torch.testing.assert_close(h[:, 0], made.towers(z)[:, 0])
    transfer = seen.extras["transfer"]
    assert transfer.shape == (5, 3)
    assert not transfer.requires_grad
    assert not transfer[:, 0].any()
    assert ((transfer[:, 1:] > 0) & (transfer[:, 1:] < 1)).all()


def test_options() -> None:
    def count(**options: Any) -> int:
        return sum(p.numel() for p in trunk(CHAIN, **options).parameters())

    k = 8
    plain = count()
    assert count(ait_bias=True) - plain == 3 * k
    assert count(ait_shared=False) - plain == 3 * k * k
    assert count(ait_activation=True) == plain
    assert count(norm="bn") - plain == 3 * 2 * (16 + 8)
    assert AIT(8).w_1.weight.std().item() == pytest.approx(0.01, rel=0.4)
    # The transfer has the last tower layer's rate unless it is told its own.
    assert trunk(CHAIN, dropout=[0.1, 0.25]).g[0].layers[0][3].p == 0.25
    assert trunk(CHAIN, dropout=[0.1, 0.25], transfer_dropout=0.0).g[0].layers[0][3].p == 0.0
    # ReLU on query, key and value: nothing negative comes out.
    assert (trunk(CHAIN, ait_activation=True)(torch.randn(9, 1, 6).double(), features())[:, 1:] >= 0).all()


def test_without_an_edge_it_refuses_and_says_what_to_do() -> None:
    loose = Schema(CHAIN.fields, (Task("click"), Task("like"), Task("share")))
    with pytest.raises(SeqmtlError, match=r"give model\.trunk\.parents=\[null,0,0\] or choose another"):
        AITM(loose, 4, 6)
    assert reach(trunk(loose, parents=[None, 0, 0]), 3)[2] == {"tower0", "tower2", "g.1", "ait.0"}
