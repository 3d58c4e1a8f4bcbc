"""The smooth step, a differentiable switch (tree ensemble layers, ICML 2020; DSelect-k; APEM eq. 13), and how it hardens."""

from __future__ import annotations

from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.nn.probability import at_least_float32


def smooth_step(s: Tensor, gamma: Tensor | float) -> Tensor:
    """0 below -gamma/2, 1 above gamma/2, a cubic between: u²(3 - 2u) with u = s/gamma + 1/2.

    *Differs* from APEM eq. 13 in form only: that one divides by gamma³, 1e-9 at the floor. In float32 at least: a half precision
    argument has no bits left for a step of 1e-3.
    """
    u = (at_least_float32(s) / gamma + 0.5).clamp(0, 1)
    return u * u * (3 - 2 * u)


class Gamma:
    """Width of the step after n optimizer steps, max(init - rate·n, min) (APEM eq. 13).

    At APEM's rate the floor comes at step 49,995, after which almost every switch is frozen; a shorter run never gets there.
    `steps_to_floor` sets the rate so that it is reached then; about 0.7 of a run's steps serve.

    Raises:
        SeqmtlError: min is not above 0, init is below min, or steps_to_floor below 1.
    """

    def __init__(self, init: float = 10.0, min: float = 1e-3, rate: float = 2e-4, steps_to_floor: int | None = None) -> None:
        if not 0 < min <= init:
            raise SeqmtlError(f"gamma.min={min} must be above 0 and gamma.init={init} not below it")
        if steps_to_floor is not None and steps_to_floor < 1:
            raise SeqmtlError(f"gamma.steps_to_floor={steps_to_floor} must be 1 or more (null: gamma.rate counts)")
        self.init, self.min = init, min
        self.rate = rate if steps_to_floor is None else (init - min) / steps_to_floor

    def __call__(self, step: Tensor) -> Tensor:
        # On the device and in float64: no wait for the device, and 10 - 9.999 keeps its digits.
        return (self.init - self.rate * step.double()).clamp(min=self.min)
