"""The two steps that weigh losses: DWA and GradNorm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from balancer_cases import (
    PAIR,
    USED,
    Small,
    bce,
    gradients,
    of_each,
    small_and_batch,
)
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.steps.dwa import DWA
from seqmtl.steps.gradnorm import GradNorm
from seqmtl.types import Batch, Output


@pytest.fixture
def small() -> tuple[Small, Batch]:
    return small_and_batch()


def told_losses(values: list[list[float]]) -> Any:
    """A loss that says one row of `values` after the other, and a model with one table."""
    rows = iter(values)

    def loss(output: Output, y: Tensor) -> dict[str, Tensor]:
        return {"bce": torch.tensor(next(rows)) + 0 * output.logits.mean(0)}

    return loss


def test_dwa_agrees_with_another_implementation(small: tuple[Small, Batch]) -> None:
    from torchjd.scalarization import DWA as Reference

    torch.manual_seed(1)
    values = (torch.rand(5, 3, 2) + 0.1).tolist()  # five epochs of three batches
    model, batch = small
    for temperature in (2.0, 0.5):
        step, reference = DWA(PAIR, temperature), Reference(temperature)
        for epoch, batches in enumerate(values):
            step.set_epoch(epoch)
            for row in batches:
                losses = torch.tensor(row, requires_grad=True)
                reference(losses).backward()
                terms = step(model, told_losses([row]), batch)
                weights = torch.stack([terms["extra/weight_click"], terms["extra/weight_buy"]]).float()
                torch.testing.assert_close(weights, losses.grad)
                assert terms["bce"].item() == pytest.approx(sum(row)), "the loss is told unweighted"
            reference.step()


def test_dwa_weighs_the_loss_of_each_task(small: tuple[Small, Batch]) -> None:
    model, batch = small
    step = DWA(PAIR)
    step.means.copy_(torch.tensor([[1.0, 1.0], [0.5, 1.0]]))
    step.epochs.fill_(2)
    w = step.weights()
    assert w.tolist() == pytest.approx([2 / (1 + torch.e**0.25), 2 / (1 + torch.e**-0.25)])
    found, _ = gradients(model, step, bce, batch)
    each = of_each(model, batch, USED)
    for name in USED:
        wanted = sum(x * g[name] for x, g in zip((*w.tolist(), 1.0), each, strict=True))
        torch.testing.assert_close(found[name], wanted, msg=name)


def test_a_loss_of_zero_keeps_dwa_finite() -> None:
    step = DWA(PAIR)
    step.means.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    step.epochs.fill_(2)
    assert step.weights().tolist() == [1.0, 1.0]


def test_gradnorm_by_hand() -> None:
    step = GradNorm(PAIR, alpha=1.0, lr=0.1)
    step.update(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 4.0]))
    # First step: both have the pace 1, the target is the mean length 2: click too long, buy too short.
    # Slopes +3 and -1 over the mean 2: w = 1 - 0.15, 1 + 0.05; scaled to the sum 2.
    assert step.w.tolist() == pytest.approx([0.85 * 2 / 1.9, 1.05 * 2 / 1.9])
    assert step.initial.tolist() == [2.0, 4.0]
    # L/L0 = 0.5 and 1.5, of mean 1: targets 0.5 and 1.5 times the mean length 2.
    step.w.fill_(1.0)
    step.update(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 6.0]))
    assert step.w.tolist() == pytest.approx([0.9, 1.1])
    # With alpha = 0 the lengths shall be equal, whatever the pace.
    even = GradNorm(PAIR, alpha=0.0)
    even.initial.copy_(torch.tensor([1.0, 1.0]))
    even.started.fill_(True)
    even.update(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 6.0]))
    assert even.w.tolist() == [1.0, 1.0]


def test_gradnorm_evens_out_the_lengths(small: tuple[Small, Batch]) -> None:
    model, batch = small
    step = GradNorm(PAIR, alpha=0.0, lr=0.05)

    def scaled(output: Output, y: Tensor) -> dict[str, Tensor]:
        return {"bce": bce(output, y)["bce"] * torch.tensor([20.0, 1.0])}

    for _ in range(150):
        step(model, scaled, batch)
    lengths = []
    for t in range(2):
        vectors = model.embedding(batch.fields).detach().requires_grad_()
        own = model.own(batch.fields[:, :1]).detach().requires_grad_()
        h = model.shared(vectors.flatten(1)).tanh()
        logits = torch.cat([model.towers[0](torch.cat([h, own.flatten(1)], 1)), model.towers[1](h)], 1)
        grads = torch.autograd.grad(step.w[t] * scaled(Output(logits), batch.y)["bce"][t], [vectors, own], materialize_grads=True)
        lengths.append(torch.cat([g.flatten() for g in grads]).norm().item())
    assert lengths[0] == pytest.approx(lengths[1], rel=0.3)
    assert step.w.sum() == pytest.approx(2.0)
    assert step.w[0] < 0.3


def test_gradnorm_weighs_every_parameter(small: tuple[Small, Batch]) -> None:
    model, batch = small
    step = GradNorm(PAIR)
    step.w.copy_(torch.tensor([0.5, 1.5]))
    found, terms = gradients(model, step, bce, batch)
    assert terms["extra/weight_click"] == 0.5, "those that were used, not the new ones"
    each = of_each(model, batch, USED)
    for name in USED:
        wanted = sum(x * g[name] for x, g in zip((0.5, 1.5, 1.0), each, strict=True))
        torch.testing.assert_close(found[name], wanted, msg=name)
    assert step.w.tolist() != [0.5, 1.5]


@pytest.mark.parametrize("lengths", [[0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0]])
def test_gradnorm_keeps_its_weights_where_no_length_can_be_told(lengths: list[float]) -> None:
    step = GradNorm(PAIR)
    step.update(torch.tensor(lengths), torch.tensor([1.0, 1.0]))
    assert step.w.tolist() == [1.0, 1.0]


def test_weights_of_losses_need_a_loss_for_each_task(small: tuple[Small, Batch]) -> None:
    model, batch = small
    for step in (DWA(PAIR), GradNorm(PAIR)):
        with pytest.raises(SeqmtlError, match="no term of the loss has a value for each"):
            step(model, lambda output, y: {"pairs": output.logits.mean()}, batch)


@pytest.mark.parametrize("kind", [DWA, GradNorm])
def test_the_state_goes_through_a_checkpoint(kind: Any, small: tuple[Small, Batch]) -> None:
    model, batch = small

    def train(step: Any, epochs: range, first: int = 0) -> list[float]:
        seen = []
        for epoch in epochs:
            for i in range(first if epoch == epochs[0] else 0, 3):
                if i == 0 and hasattr(step, "set_epoch"):
                    step.set_epoch(epoch)
                losses = {"bce": torch.tensor([1.0 / (1 + epoch + i), 0.7 + 0.1 * i])}
                terms = step(model, lambda o, y, v=losses: {"bce": v["bce"] * (1 + 0.1 * o.logits.square().mean(0))}, batch)
                seen.append(terms["extra/weight_click"].item())
                if (epoch, i) == (2, 1):
                    saved.update({k: v.clone() for k, v in step.state_dict().items()})
        return seen

    saved: dict[str, Tensor] = {}
    undisturbed = train(kind(PAIR), range(5))
    resumed = kind(PAIR)
    resumed.load_state_dict(dict(saved))
    assert train(resumed, range(2, 5), first=2) == undisturbed[8:]
    assert len(set(undisturbed)) > 2
