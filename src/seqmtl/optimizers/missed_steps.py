"""Where Adam would have moved numbers that had no gradient for some steps, in one go.

Adam moves a number without a gradient by what is left of its momentum. From step a, where its moments are m and v, to step a+k:

    Δw = -lr · m · Σ_j ρ^j h(j),   j = 1…k,   ρ = β₁/√β₂,   h(j) = r(a+j) / (√v + eps·√(1-β₂^(a+j))·β₂^(-j/2))
    m → β₁^k m,   v → β₂^k v,   r(s) = √(1-β₂^s)/(1-β₁^s)

Unusual: the sum is taken by Gauss' rule for the weights ρ^j on the points 1…k. h is smooth over the 1/(1-ρ) steps or so that count,
so that a few points x (between the whole numbers) stand for hundreds, and up to as many steps as points the sum is the sum itself:

    Σ_j ρ^j h(j) = Σ_i c_ki h(x_ki)   for all polynomials h of a degree below twice the number of points

Only near step 0 is h not smooth, as its r has a pole there: the first steps are made one by one. How well the rule does is measured
when it is made, and points are added until its error is below TOLERANCE.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seqmtl.errors import SeqmtlError

TOLERANCE = 1e-7  # relative, of Δw: the rounding of float32
NEGLIGIBLE = 1e-9  # ρ^j from which on terms are left out
POINTS = range(4, 13)
LONGEST = 1100  # terms


class MissedSteps:
    """The rule for given options of Adam.

    Args:
        betas, eps: of Adam.

    Raises:
        SeqmtlError: terms that do not die out, or that would need too many points.
    """

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        self.betas, self.eps = betas, eps
        self.rules: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        beta1, beta2 = betas
        if not 0 < beta1 < 1 or not 0 < beta2 < 1 or not eps > 0:
            raise SeqmtlError(f"optimizer=exact_lazy_adam needs betas between 0 and 1 and eps above 0, not {list(betas)} and {eps}")
        rho = beta1 / math.sqrt(beta2)
        terms = math.ceil(math.log(NEGLIGIBLE) / math.log(rho)) if rho < 1 else LONGEST + 1
        if terms > LONGEST:
            raise SeqmtlError(
                f"optimizer=exact_lazy_adam sums what a row has missed, which does not die out soon with betas={list(betas)}:"
                " betas[0]² must be well below betas[1], as in [0.9, 0.999]; optimizer=adam takes any"
            )
        self.first = math.ceil(8 / (1 - rho))  # up to this step, one by one; the earlier it is, the more points it takes
        for points in POINTS:
            self.x, self.c = gauss(rho, terms, points)
            if self._error(rho, terms) < TOLERANCE:
                return
        raise SeqmtlError(f"optimizer=exact_lazy_adam cannot be exact with betas={list(betas)}; take optimizer=adam")

    def _error(self, rho: float, terms: int) -> float:
        """The largest relative error from the first step on, over √v from far below eps to far above, and k."""
        root = self.eps * torch.logspace(-6, 6, 49, dtype=torch.float64)[:, None]
        j = torch.arange(1, terms + 1, dtype=torch.float64)
        r, d = self._of_step(self.first + j, j, math.log(self.betas[1]))
        exact = (rho**j * r / (root + d)).cumsum(1)
        largest = 0.0
        for k in {*range(1, min(40, terms) + 1), *range(50, terms, 50), terms}:
            r, d = self._of_step(self.first + self.x[k], self.x[k], math.log(self.betas[1]))
            found = (self.c[k] * r / (root + d)).sum(1)
            largest = max(largest, float((found / exact[:, k - 1] - 1).abs().max()))
        return largest

    def _of_step(self, step: Tensor, j: Tensor, log_beta2: float) -> tuple[Tensor, Tensor]:
        """r of a step, and what stands beside √v, j steps after v."""
        beta1, beta2 = self.betas
        root = (-torch.expm1(step * math.log(beta2))).sqrt()
        return root / -torch.expm1(step * math.log(beta1)), self.eps * root * (j * (-log_beta2 / 2)).exp()

    def __call__(self, weight: Tensor, m: Tensor, v: Tensor, since: Tensor, now: Tensor, lr: float, young: bool) -> None:
        """Move rows in place.

        Args:
            weight, m, v: (n,D).
            since: (n,), the step at which each row was moved last, at least 1.
            now: (), the step to which it is to be moved.
            lr: of all steps between.
            young: whether some row may have been moved last in the first steps; on a GPU the look waits for the device.
        """
        if young:
            few = (since < self.first).nonzero().squeeze(1)
            if len(few):
                parts = [x.index_select(0, few) for x in (weight, m, v)]
                until = torch.minimum(now, now.new_full((), self.first))
                self._one_by_one(parts[0], parts[1], parts[2], since[few], until, lr)
                for whole, part in zip((weight, m, v), parts, strict=True):
                    whole.index_copy_(0, few, part)
                since = since.index_copy(0, few, until.expand(len(few)))
        self._at_once(weight, m, v, since, now - since, lr)

    def _at_once(self, weight: Tensor, m: Tensor, v: Tensor, since: Tensor, k: Tensor, lr: float) -> None:
        beta1, beta2 = betas_of(self.betas, weight.dtype)
        kind = (weight.device, weight.dtype)
        if kind not in self.rules:
            self.rules[kind] = (self.x.to(weight), self.c.to(weight))
        place = k.clamp(max=len(self.x) - 1)
        x, c = (part.index_select(0, place) for part in self.rules[kind])  # (n,points)
        r, d = self._of_step(since.unsqueeze(1) + x, x, math.log(beta2))
        factors = c * r * -lr
        root = v.sqrt()
        total = torch.zeros_like(root)
        for factor, more in zip(factors.split(1, 1), d.split(1, 1), strict=True):
            total.addcdiv_(factor, root + more)
        weight.addcmul_(m, total)
        steps = k.unsqueeze(1).double()
        m.mul_((steps * math.log(beta1)).exp().to(m.dtype))
        v.mul_((steps * math.log(beta2)).exp().to(v.dtype))

    def _one_by_one(self, weight: Tensor, m: Tensor, v: Tensor, since: Tensor, until: Tensor, lr: float) -> None:
        beta1, beta2 = betas_of(self.betas, weight.dtype)
        for step in range(int(since.min()) + 1, int(until) + 1):
            moves = (since < step).unsqueeze(1)
            m.copy_(torch.where(moves, m * beta1, m))
            v.copy_(torch.where(moves, v * beta2, v))
            divisor = v.sqrt().div_(math.sqrt(1 - self.betas[1] ** step)).add_(self.eps)
            weight.sub_(torch.where(moves, m / divisor, 0.0), alpha=lr / (1 - self.betas[0] ** step))


def betas_of(betas: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """By what torch's kernels multiply m and v: they round 1-β₁ and β₂ to the parameter's type, which 2,000 steps later shows."""
    rounded = [float(torch.tensor(x, dtype=dtype)) for x in (1 - betas[0], betas[1])]
    return 1 - rounded[0], rounded[1]


def gauss(rho: float, terms: int, points: int) -> tuple[Tensor, Tensor]:
    """Gauss' rules for Σ_j ρ^j h(j), j = 1…k: points and factors (terms+1,points) float64, row k for k terms, row 0 for none.

    The recurrence of the orthogonal polynomials of each k by Lanczos, its points and factors by Golub & Welsch (Mathematics of
    Computation 23, 1969).
    """
    j = torch.arange(1, terms + 1, dtype=torch.float64)
    x = torch.arange(1, points + 1, dtype=torch.float64).repeat(terms + 1, 1)
    c = rho**x * (x <= torch.arange(terms + 1).unsqueeze(1))  # as many steps as points, or fewer: the steps themselves
    if terms <= points:
        return x, c
    k = torch.arange(points + 1, terms + 1).unsqueeze(1)
    weights = torch.where(j <= k, rho**j, 0.0)  # (rules,terms)
    mass = weights.sum(1, keepdim=True)
    basis = [(weights / mass).sqrt()]
    matrix = torch.zeros(len(k), points, points, dtype=torch.float64)
    for i in range(points):
        following = j * basis[-1]
        matrix[:, i, i] = (following * basis[-1]).sum(1)
        for _ in range(2):  # once is not enough to be orthogonal in floating point
            for earlier in basis:
                following = following - (following * earlier).sum(1, keepdim=True) * earlier
        if i + 1 < points:
            length = following.norm(dim=1)
            matrix[:, i, i + 1] = matrix[:, i + 1, i] = length
            basis.append(following / length.unsqueeze(1))
    values, vectors = torch.linalg.eigh(matrix)
    x[points + 1 :], c[points + 1 :] = values, mass * vectors[:, 0, :] ** 2
    return x, c
