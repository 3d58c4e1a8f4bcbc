"""What a task reads where everything is computed for each representation."""

from __future__ import annotations

from torch import Tensor


def own(x: Tensor) -> Tensor:
    """Of the streams that were computed from each representation, for each task its own stream from its own representation.

    Shapes: (B,G,N,H) → (B,T,H) the diagonal with G = T; (B,N,H) with G = 1. N = 1 (all tasks have the same stream) or T.
    """
    if x.shape[1] == 1:
        return x.squeeze(1)
    return x.expand(-1, -1, x.shape[1], -1).diagonal(dim1=1, dim2=2).movedim(-1, 1)
