"""torch.compile for a model, in the way that fits a training here."""

from __future__ import annotations

import torch
from torch import nn

from seqmtl.nn.embedding import FieldEmbedding


def compile_model(model: nn.Module) -> None:
    """Compile `model(batch)` in place; names of parameters stay. The first call of each shape takes half a minute or more.

    Modules that say `compiled_alone = True`, such as the layers of a deep model, are compiled and not the model around them: equal
    layers are then compiled once, where the whole of APEM takes many minutes.

    Tables are read outside of what is compiled, where reads are watched and shifted, and dropout draws the numbers that it draws
    without compiling.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    dynamo.recompile_limit = 64  # layers of one class, in training and in evaluation, count together; beyond it all runs as it is
    for module in model.modules():
        if isinstance(module, FieldEmbedding):
            module._read = torch.compiler.disable(module._read)  # type: ignore[method-assign]
    for part in [m for m in model.modules() if getattr(m, "compiled_alone", False)] or [model]:
        part.compile(dynamic=False)
