"""The cross-entropy of small heads, by hand and by limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from seqmtl.build import check_pairs
from seqmtl.errors import SeqmtlError
from seqmtl.losses.auxiliary import Auxiliary
from seqmtl.losses.bce import BCE
from seqmtl.types import Output, Schema, Task

PAIR = Schema((), (Task("click"), Task("buy", "click")))


def test_by_hand() -> None:
    a = torch.tensor([[0.0, 2.0], [-1.0, 2.0]])
    y = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    found = Auxiliary(PAIR, 0.5)(Output(torch.zeros(2, 2), {"auxiliary": a}), y)
    click = (math.log(2) + math.log1p(math.exp(-1))) / 2
    buy = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    torch.testing.assert_close(found, torch.tensor([click / 2, buy / 2]))


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_it_is_the_tasks_own_loss_of_other_logits(weight: float) -> None:
    torch.manual_seed(0)
    logits, a, y = torch.randn(9, 2), torch.randn(9, 2, requires_grad=True), (torch.rand(9, 2) < 0.5).float()
    found = Auxiliary(PAIR, weight)(Output(logits, {"auxiliary": a}), y)
    torch.testing.assert_close(found, weight * BCE(PAIR)(Output(a), y))
    found.sum().backward()
    assert bool(a.grad.any()) is (weight > 0)


def test_half_precision_and_extreme_logits() -> None:
    a = torch.tensor([[60.0, -60.0]], dtype=torch.bfloat16)
    found = Auxiliary(PAIR, 1.0)(Output(a.float(), {"auxiliary": a}), torch.tensor([[0.0, 1.0]]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([60.0, 60.0]))


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(SeqmtlError, match=r"loss\.terms\.auxiliary\.weight=-1 must not be negative"):
        Auxiliary(PAIR, -1)


def test_a_model_without_small_heads_is_told_which_has_them(compose: Any) -> None:
    with pytest.raises(SeqmtlError, match=r"loss=auxiliary needs auxiliary.*model=mmoe.*so does model=smallheads loss=auxiliary"):
        check_pairs(compose("model=mmoe", "loss=auxiliary"))


def test_the_loss_that_comes_with_the_model(compose: Any) -> None:
    loss = compose("model=smallheads")["loss"]
    assert loss["name"] == "auxiliary"
    assert set(loss["terms"]) == {"bce", "auxiliary"}
    assert loss["terms"]["auxiliary"]["weight"] == 0.5
