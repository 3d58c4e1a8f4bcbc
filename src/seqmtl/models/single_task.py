"""Single-Task: T models that share nothing, not even embeddings.

The baseline "MLP" of AITM (KDD 2021, https://arxiv.org/abs/2105.08489, Table 4) and "Single-Task" of APEM
(2023, https://arxiv.org/abs/2301.02494, 4.1.2), whose size in Fig. 8 is that of two whole models.

    logit_t = MLP_t(E_t(x))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.models.mtl import MTLModel, Part
from seqmtl.types import Batch, Output, Schema


class SingleTask(nn.Module):
    """One `MTLModel` for each task, of the same parts.

    Shapes: logits (B,T). Extras: scalars are summed where they are losses and averaged otherwise, columns stand side by side.
    """

    bags = True
    shared = False  # nothing that two tasks train: no gradients to balance

    def __init__(
        self, schema: Schema, dim: int, bottom: Part, trunk: Part, head: Part, embedding_bound: float | None = None
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(
            MTLModel(schema.keep([task]), dim, bottom, trunk, head, embedding_bound) for task in schema.task_names
        )
        self.histories = self.models[0].histories
        self.provides = self.models[0].provides

    def forward(self, batch: Batch) -> Output:
        outputs: list[Output] = [model(batch) for model in self.models]
        extras = {name: _join(name, [o.extras[name] for o in outputs]) for name in outputs[0].extras}
        return Output(torch.cat([o.logits for o in outputs], 1), extras)


def _join(name: str, values: list[Tensor]) -> Tensor:
    if values[0].ndim:
        return torch.cat(values, 1)
    total = torch.stack(values).sum()
    return total if name.startswith("loss_") else total / len(values)
