"""YouTubeNet: Deep Neural Networks for YouTube Recommendations (Covington et al., RecSys 2016,
https://doi.org/10.1145/2959100.2959190), as a bottom.

    z = [v, (1/n) Σ_i x_i]   v the embeddings of all fields, x_1..x_n the past items
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqmtl.nn.histories import main_history
from seqmtl.nn.ragged import Ragged
from seqmtl.types import Features, Schema


class YouTubeNet(nn.Module):
    """A bottom: the mean of the past items beside the fields. It reads the main history.

    Shapes: Features → z (B,1,F·D + D). A row without past items has 0 for their mean.

    Raises:
        SeqmtlError: there is no history, or several and none is the main one.

    *Differs*: the paper's network generates candidates; what is taken from it, as in DTRN's comparison, is the mean.
    """

    needs_histories = True

    def __init__(self, schema: Schema, dim: int) -> None:
        super().__init__()
        self.histories = main_history(schema, "YouTubeNet")
        self.width = len(schema.fields) * dim + dim

    def forward(self, features: Features) -> Tensor:
        items, mask = features.past[self.histories[0]]  # (B,L,D), (B,L)
        ragged = Ragged.of(mask)
        interest = ragged.spread(ragged.mean(ragged.take(items)))  # (B,D)
        return torch.cat([features.fields.flatten(1), interest], 1).unsqueeze(1)
