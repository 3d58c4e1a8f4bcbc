"""A layer of DTRN's Conditional Transformer (CIKM 2023, eq. 3 to 5 and half of eq. 7; the encoder is one, the decoder another).

o = CLN(q + MHA(q, memory) W^O),   out = CLN(o + FFN(o)),   FFN(o) = ReLU(o W_1 + b_1) W_2 + b_2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from seqmtl.models.conditional import conditional_linear, conditional_norm
from seqmtl.nn.dropout import Dropout

INJECTIONS = {  # what of a layer depends on task and behaviour; Table 6
    "ln": ("norm_1", "norm_2"),
    "qkv": ("query", "key", "value"),
    "ffn1": ("ffn_1",),
    "ffn2": ("ffn_2",),
}


class ConditionalLayer(nn.Module):
    """Attention, feed-forward layers and the norms after them, shared by all pairs but for what hypernetworks say.

    Args:
        dim, ffn: D and the hidden width of the feed-forward layers.
        dropout: of what attention and feed-forward layers add.

    Shapes: query (N,1 or T,D), memory (N',1 or T,D) → (N,T,D), or (N,1,D) if nothing is `given`.

    *Differs*: the paper's prose compares queries with values; keys are meant.
    """

    def __init__(self, dim: int, ffn: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.ffn_1, self.ffn_2 = (nn.Linear(a, b) for a, b in pairwise([dim, ffn, dim]))
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        for layer in (self.query, self.key, self.value, self.out, self.ffn_1, self.ffn_2):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.ffn_1.bias)
        nn.init.zeros_(self.ffn_2.bias)

    def size_of(self, name: str) -> int:
        """How many numbers a hypernetwork has to make for one part."""
        part = getattr(self, name)
        return part.bias.numel() if isinstance(part, nn.LayerNorm) else sum(p.numel() for p in part.parameters())

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        given: Mapping[str, Tensor],
        rows: Sequence[int],
        memory_rows: Sequence[int],
    ) -> Tensor:
        """`given` {part: (M,T,1,numbers)}, for norms (M,T,2,D): γ and β; `attend` (q, k, v) → (N,1 or T,D); `rows`, `memory_rows`
        (M,): how many are of each behaviour."""

        def linear(name: str, x: Tensor, of: Sequence[int]) -> Tensor:
            return conditional_linear(getattr(self, name), x, given[name].squeeze(2) if name in given else None, of)

        def norm(name: str, x: Tensor) -> Tensor:
            gamma_beta = given[name].unbind(2) if name in given else None
            return conditional_norm(getattr(self, name), x, gamma_beta, rows)

        q, k, v = linear("query", query, rows), linear("key", memory, memory_rows), linear("value", memory, memory_rows)
        o = norm("norm_1", query + self.dropout(self.out(attend(q, k, v))))  # (N,T,D)
        return norm("norm_2", o + self.dropout(linear("ffn_2", linear("ffn_1", o, rows).relu(), rows)))
