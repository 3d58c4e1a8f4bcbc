"""Nash-MTL: Multi-Task Learning as a Bargaining Game (Navon et al., ICML 2022, https://arxiv.org/abs/2202.01017, Claim 3.1).

G α = 1/α   (elementwise, α > 0)
"""

from __future__ import annotations

import torch
from torch import Tensor


class NashMTLWeighting:
    """G (n,n) → α (n,), the weights under which the product of all objectives' gains is largest.

    Args:
        ridge: is added to the diagonal of G, once G is divided by its norm. Without it, gradients that cancel each other would
            get infinite weights.
        max_iters, tolerance: of Newton's method, and the decrement at which it stops.

    *Differs*: the authors' code approaches α by some convex problems, starting from the last step's. α is the one minimum of
    ½ αᵀGα - Σ log α, a self-concordant function, so damped Newton steps find it from anywhere, to machine precision and without a
    state. As there, G is divided by its norm; the gradient's length is not clipped. |J'α|² is at most n times that norm.
    """

    def __init__(self, ridge: float = 1e-6, max_iters: int = 100, tolerance: float = 1e-9) -> None:
        self.ridge, self.max_iters, self.tolerance = ridge, max_iters, tolerance

    def __call__(self, gramian: Tensor) -> Tensor:
        g = gramian.double() / gramian.double().norm()
        g = g + self.ridge * torch.eye(len(g), dtype=g.dtype, device=g.device)
        alpha = g.diagonal().rsqrt()  # the solution where no two gradients have a common direction
        for _ in range(self.max_iters):
            slope = g @ alpha - 1 / alpha
            step = torch.linalg.solve(g + torch.diag(alpha**-2), slope)
            decrement = (slope @ step).clamp(min=0).sqrt()
            if decrement < self.tolerance:
                break
            # A quarter or less: full steps converge quadratically. Else this length keeps every α above 0.
            alpha = alpha - step * (1.0 if decrement < 0.25 else 1 / (1 + decrement))
        return alpha
