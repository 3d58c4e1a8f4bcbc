"""The recurrent part of DIEN: a GRU whose update gate an attention holds back (AUGRU), over histories of different lengths.

Unusual: items stand in the order of the steps, the first items of all rows, then the second ones, and so on, longest row first. So
the rows that are still running at a step are a slice, and nothing is computed for those that have ended.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.nn.options import one_of
from seqmtl.nn.ragged import Ragged

FORMS = ("paper", "official")


class Steps:
    """The items of a `Ragged` in the order of the steps.

    `sizes` (longest,): how many rows run at each step, on the CPU, as a PackedSequence has it.
    """

    def __init__(self, ragged: Ragged) -> None:
        device = ragged.rows.device
        longest_first = ragged.lengths.argsort(descending=True, stable=True)
        self._rank = longest_first.argsort()  # (R,)
        sizes = (ragged.lengths > torch.arange(ragged.longest, device=device).unsqueeze(1)).sum(1)  # (longest,)
        self._place = (sizes.cumsum(0) - sizes)[ragged.position] + self._rank[ragged.row]  # (N,)
        self._item = self._place.argsort()
        self.sizes = sizes.cpu()

    def pack(self, items: Tensor) -> Tensor:
        """From the order of the rows into that of the steps: (N,…) → (N,…)."""
        return items.index_select(0, self._item)

    def unpack(self, items: Tensor) -> Tensor:
        """Back into the order of the rows: (N,…) → (N,…)."""
        return items.index_select(0, self._place)

    def to_rows(self, values: Tensor) -> Tensor:
        """Values of rows, longest row first, back into their own order: (R,…) → (R,…)."""
        return values.index_select(0, self._rank)


class AUGRU(nn.Module):
    """The last state of each row (DIEN, eq. 2 to 5, 11, 12); it starts at 0.

        u = σ(x W_u + h U_u + b_u),   r = σ(x W_r + h U_r + b_r),   c = tanh(x W_c + r ⊙ (h U_c) + b_c)
        h' = (1 - ũ) ⊙ h + ũ ⊙ c,   ũ = a u

    Args:
        form: paper; official: ũ = 1 - (1 - a) u, what the cell of the authors' code does. Its gate u keeps the state instead of
            replacing it, so that a = 0 is an ordinary step there, and a step without effect in the paper.

    Shapes: x (N,D) and a (N,) in the order of `steps` → (R,D).

    Raises:
        SeqmtlError: an unknown form.

    *Differs*: the official cell also applies r before U_c instead of after it; both forms do it as the paper.
    """

    def __init__(self, dim: int, form: str = "paper") -> None:
        super().__init__()
        one_of("model.bottom.augru", form, FORMS)
        self.form = form
        self.input = nn.Linear(dim, 3 * dim)  # W_u, W_r, W_c
        self.state = nn.Linear(dim, 3 * dim, bias=False)  # U_u, U_r, U_c
        xavier_gates(self)

    def forward(self, x: Tensor, a: Tensor, steps: Steps) -> Tensor:
        sizes = steps.sizes.tolist()
        h = a.new_zeros(max(sizes, default=0), self.state.in_features)
        ended = []
        for x_i, a_i in zip(self.input(x).split(sizes), a.unsqueeze(1).split(sizes), strict=True):
            h, end = h.split([len(x_i), len(h) - len(x_i)])
            ended.append(end)
            h = self.step(x_i, a_i, h)  # (rows that run, D)
        return steps.to_rows(torch.cat([h, *reversed(ended)]))

    def step(self, x: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """One step: x (R,3D) the items after W and b, a (R,1), h (R,D) → (R,D)."""
        widths = [2 * h.shape[1], h.shape[1]]
        (gates, candidate), (of_state, reset) = x.split(widths, 1), self.state(h).split(widths, 1)
        u, r = torch.sigmoid(gates + of_state).chunk(2, 1)
        c = torch.tanh(candidate + r * reset)
        u = a * u if self.form == "paper" else 1 - (1 - a) * u
        return h + u * (c - h)


def xavier_gates(module: nn.Module) -> None:
    """Xavier-uniform for the D×D matrix of each of three gates, which stand in one weight; biases 0."""
    for parameter in module.parameters():
        for gate in parameter.detach().chunk(3):
            if gate.ndim == 2:
                nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(gate)
