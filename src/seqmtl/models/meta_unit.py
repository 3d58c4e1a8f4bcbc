"""M2M's meta unit: layers whose weights are made from the row's scenario S (see m2m.py).

W_j = reshape(S V_j + v_j),   b_j = S U_j + u_j,   h ← φ(h W_j + b_j)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seqmtl.nn.mlp import xavier


class MetaUnit(nn.Module):
    """`depth` such layers; φ is a leaky ReLU.

    Args:
        width: of h.
        view: k_s, width of the scenario's view.

    Shapes: h (B,N,width), s (B or 1,k_s) → (B,N,width). Each layer takes B·width² numbers of memory, whatever N is.

    Unusual: v_j starts as a layer's weights do, so that a scenario that says nothing yet leaves an ordinary MLP.
    """

    def __init__(self, width: int, view: int, depth: int) -> None:
        super().__init__()
        # V_j and v_j. A sum over k_s numbers of size 1 is as large as v_j.
        self.weights = nn.ModuleList(_linear(view, width * width, view * width, width) for _ in range(depth))
        self.biases = nn.ModuleList(_linear(view, width, view, None) for _ in range(depth))  # U_j and u_j

    def forward(self, h: Tensor, s: Tensor) -> Tensor:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            w = weight(s).unflatten(-1, (h.shape[-1], h.shape[-1]))  # (B,in,in)
            h = F.leaky_relu(h @ w + bias(s).unsqueeze(1))  # (B,N,in)
        return h


def _linear(width_in: int, width_out: int, fan: int, bias_fan: int | None) -> nn.Linear:
    """Weights as xavier's of `fan` in and out; the bias likewise, or 0."""
    layer = nn.Linear(width_in, width_out)
    xavier(layer.weight, fan, fan)
    if bias_fan is None:
        nn.init.zeros_(layer.bias)
    else:
        xavier(layer.bias, bias_fan, bias_fan)
    return layer
