"""PLE: Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations
(Tang et al., RecSys 2020, https://doi.org/10.1145/3383313.3412236).

    x_t^0 = x_s^0 = z,   (x_1, …, x_T, x_s)^j = CGC^j((x_1, …, x_T, x_s)^{j-1}),   h_t = tower_t(x_t^J)        (cgc.py)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.models.cgc import CGC
from seqmtl.nn.mlp import MLP
from seqmtl.nn.own import own
from seqmtl.types import Features, Schema


class PLE(nn.Module):
    """A trunk: levels of private and shared experts, then towers.

    Args:
        levels: for each level the widths of its experts: [[64, 32, 16]] is one level, [[256], [128]] two of one-layer experts.
        shared: S, the shared experts of a level; None: as many as tasks.
        private: P, the experts of each task in a level.
        specific_is_total: `private` counts those of all tasks together.
        gate_bias: whether the gates have one.
        dropout: of the experts: one rate, or one for each layer, level after level.
        tower_dims, tower_dropout: of each task's tower; no dims, no tower.
        norm: none, bn or ln, in experts and towers.

    Shapes: z (B,G,W) → h (B,T,H). With G = T all streams read r_t, and task t's own is kept.

    Raises:
        SeqmtlError: levels that are no list of lists, no expert at all, or private experts that cannot be dealt out evenly.

    *Differs*: the paper prints no sizes for Ali-CCP; these are MTReclib's. Its gates have no bias, those of every implementation
    have one. Without shared experts there is no shared gate, since nothing would read its stream.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        width: int,
        levels: Sequence[Sequence[int]] = ((256,), (128,)),
        shared: int | None = 4,
        private: int = 4,
        specific_is_total: bool = False,
        gate_bias: bool = True,
        dropout: float | Sequence[float] = 0.0,
        tower_dims: Sequence[int] = (128, 64, 32),
        tower_dropout: float | Sequence[float] = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        tasks = len(schema.tasks)
        shared, each = _experts(tasks, shared, private, specific_is_total)
        rates = _rates(levels, dropout)
        self.levels = nn.ModuleList()
        for number, (dims, some) in enumerate(zip(levels, rates, strict=True), 1):
            shared_gate = shared > 0 and number < len(levels)
            self.levels.append(CGC(tasks, width, dims, shared, each, shared_gate, gate_bias, some, norm))
            width = dims[-1]
        self.towers = MLP(width, tower_dims, n=tasks, dropout=tower_dropout, norm=norm)
        self.experts_width, self.width = width, self.towers.width

    def forward(self, z: Tensor, features: Features) -> Tensor:
        x = s = z.unsqueeze(2)  # (B,G,1,W): each representation enters all streams
        for level in self.levels[:-1]:
            x, s = level(x, s)  # (B,G,T,H), (B,G,1,H)
        x, _ = self.levels[-1](own(x), own(s))  # (B,T,H)
        features.extras["experts"] = x
        h: Tensor = self.towers(x)
        return h


def _experts(tasks: int, shared: int | None, private: int, specific_is_total: bool) -> tuple[int, int]:
    """S and P."""
    shared = tasks if shared is None else shared
    if shared < 0 or private < 0 or shared + private == 0:
        raise SeqmtlError(f"model.trunk.shared={shared} and private={private} leave no expert; give at least one of them")
    if specific_is_total and private % tasks:
        raise SeqmtlError(
            f"model.trunk.private={private} experts cannot be dealt evenly to {tasks} tasks;"
            f" give a multiple of {tasks}, or model.trunk.specific_is_total=false"
        )
    return shared, private // tasks if specific_is_total else private


def _rates(levels: Sequence[Sequence[int]], dropout: float | Sequence[float]) -> list[list[float]]:
    """The dropout rates of each level's layers."""
    if not levels or any(isinstance(dims, int) or not dims for dims in levels):
        raise SeqmtlError(f"model.trunk.levels={levels} must be a list of levels, each with its widths, such as [[64,32,16]]")
    layers = sum(len(dims) for dims in levels)
    rates = [float(dropout)] * layers if isinstance(dropout, int | float) else list(dropout)
    if len(rates) != layers:
        raise SeqmtlError(f"dropout {rates} has {len(rates)} rates for the {layers} layers of the experts; give one, or as many")
    left = iter(rates)
    return [[next(left) for _ in dims] for dims in levels]
