"""n stacks at once equal n stacks one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seqmtl.errors import SeqmtlError
from seqmtl.nn.mlp import MLP, ParallelBatchNorm, ParallelLayerNorm, ParallelLinear


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_parallel_linear_equals_linears_in_a_loop(shared: bool, bias: bool) -> None:
    layer = ParallelLinear(3, 5, 4, bias=bias)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 7, 1 if shared else 3, 5)
    wanted = torch.stack(
        [
            nn.functional.linear(x[..., 0 if shared else i, :], w, layer.bias[i] if bias else None)
            for i, w in enumerate(layer.weight)
        ],
        -2,
    )
    torch.testing.assert_close(layer(x), wanted)


def test_a_wrong_number_of_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="3 parallel layers cannot share 2 inputs"):
        ParallelLinear(3, 5, 4)(torch.zeros(2, 2, 5))


def test_xavier_takes_the_fans_of_one_stack() -> None:
    layer = ParallelLinear(64, 30, 20)
    bound = math.sqrt(6 / 50)
    assert layer.weight.abs().max() <= bound
    for stack in layer.weight:
        assert stack.abs().max() > 0.95 * bound
        assert stack.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not layer.bias.any()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("norm", ["none", "bn", "ln"])
def test_mlp_equals_sequentials_in_a_loop(shared: bool, norm: str) -> None:
    mlp = MLP(5, [4, 3], n=2, norm=norm)
    x = torch.randn(6, 1 if shared else 2, 5)
    wanted = []
    for i in range(2):
        stack = nn.Sequential()
        for layer, (a, b) in zip(mlp.layers, [(5, 4), (4, 3)], strict=True):
            linear = nn.Linear(a, b)
            linear.load_state_dict({"weight": layer[0].weight[i], "bias": layer[0].bias[i]})
            stack.append(linear)
            stack.append({"none": nn.Identity, "bn": lambda b=b: nn.BatchNorm1d(b), "ln": lambda b=b: nn.LayerNorm(b)}[norm]())
            stack.append(nn.ReLU())
        wanted.append(stack(x[:, 0 if shared else i]))
    torch.testing.assert_close(mlp(x), torch.stack(wanted, 1))
    assert mlp.width == 3


def test_no_layers_are_the_identity_for_each_stack() -> None:
    mlp = MLP(5, [], n=3)
    x = torch.randn(2, 1, 5)
    assert torch.equal(mlp(x), x.expand(2, 3, 5))
    assert mlp.width == 5
    assert not list(mlp.parameters())


@pytest.mark.parametrize(("norm", "extra"), [("none", 0), ("bn", 2), ("ln", 2)])
def test_parameters_are_those_of_the_formula(norm: str, extra: int) -> None:
    mlp = MLP(7, [6, 4], n=3, norm=norm)
    assert sum(p.numel() for p in mlp.parameters()) == 3 * (7 * 6 + 6 + 6 * 4 + 4 + extra * (6 + 4))


def test_dropout_has_a_rate_for_each_layer() -> None:
    mlp = MLP(4, [200, 200], dropout=[0.0, 0.9])
    nn.init.constant_(mlp.layers[0][0].bias, 5.0)
    first = mlp.layers[0](torch.zeros(1, 1, 4))
    assert (first > 0).all()
    assert (mlp.layers[1][3](torch.ones(1, 200)) == 0).float().mean() > 0.7
    with pytest.raises(SeqmtlError, match="3 rates for the 2 layers"):
        MLP(4, [2, 2], dropout=[0.1, 0.1, 0.1])
    with pytest.raises(SeqmtlError, match="choose from none, bn, ln"):
        MLP(4, [2], norm="batch")


def test_norms_are_those_of_torch() -> None:
    x = torch.randn(5, 2, 3)
    for i in range(2):
        torch.testing.assert_close(ParallelLayerNorm(2, 3)(x)[:, i], nn.LayerNorm(3)(x[:, i]))
        torch.testing.assert_close(ParallelBatchNorm(2, 3)(x)[:, i], nn.BatchNorm1d(3)(x[:, i]))


def test_a_batch_of_one_row_is_normalised_as_in_evaluation() -> None:
    """The last batch of an epoch may have one row, and a rank one of two."""
    made = MLP(3, [4], n=2, norm="bn")
    made(torch.randn(50, 1, 3))
    row = torch.randn(1, 1, 3)
    kept = made.state_dict()["layers.0.1.running_mean"].clone()
    trained = made.train()(row)
    assert torch.equal(made.layers[0][1].running_mean, kept)
    assert torch.allclose(trained, made.eval()(row))
