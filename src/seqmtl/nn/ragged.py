"""Sequences of different lengths without their padding.

Most histories are short and many are empty, so work on padded ones is mostly work on nothing: a row that has no item takes no part,
and what is done to each item is done to one long list of the items that there are. Padding comes back only where the items of a row
meet each other, and only to the longest of rows of similar length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqmtl.nn.probability import softmax


class Ragged:
    """Which rows have items, and how many.

    Args:
        size: number of rows, of which some may have none.
        rows: (R,) those that have any, rising.
        lengths: (R,) how many each, 1 or more.

    Below, N is the number of all items; they stand row after row, in each row in their order.
    `row` (N,): whose each is, counted in the R; `position` (N,): its place in its row, from 0.
    """

    def __init__(self, size: int, rows: Tensor, lengths: Tensor) -> None:
        self.size, self.rows, self.lengths = size, rows, lengths
        starts = lengths.cumsum(0) - lengths
        self.row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        self.position = torch.arange(len(self.row), device=rows.device) - starts[self.row]
        self.longest = int(lengths.max()) if len(rows) else 0

    @classmethod
    def of(cls, mask: Tensor) -> Ragged:
        """From the mask (B,L) of right padded sequences."""
        lengths = mask.sum(1)
        rows = lengths.nonzero().squeeze(1)
        return cls(len(mask), rows, lengths[rows])

    @classmethod
    def cat(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one part after the other: their items stand in the order of `torch.cat`."""
        starts = [sum(part.size for part in parts[:i]) for i in range(len(parts))]
        rows = torch.cat([part.rows + start for part, start in zip(parts, starts, strict=True)])
        return cls(sum(part.size for part in parts), rows, torch.cat([part.lengths for part in parts]))

    def __len__(self) -> int:
        return len(self.row)

    def take(self, padded: Tensor) -> Tensor:
        """The items of right padded sequences (size,L,…) → (N,…)."""
        return padded.flatten(0, 1)[self.rows[self.row] * padded.shape[1] + self.position]

    def pad(self, items: Tensor) -> Tensor:
        """(N,…) → (R,longest,…), 0 where there is no item."""
        width = max(1, self.longest)
        out = items.new_zeros(len(self.rows) * width, *items.shape[1:])
        return out.index_copy(0, self.row * width + self.position, items).unflatten(0, (len(self.rows), width))

    def mask(self) -> Tensor:
        """(R,longest), where `pad` has items."""
        return torch.arange(max(1, self.longest), device=self.rows.device) < self.lengths.unsqueeze(1)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the rows that have items (R,…) → of all rows (size,…), 0 for the others."""
        return values.new_zeros(self.size, *values.shape[1:]).index_copy(0, self.rows, values)

    def sum(self, items: Tensor) -> Tensor:
        """Over the items of each row: (N,…) → (R,…)."""
        return items.new_zeros(len(self.rows), *items.shape[1:]).index_add(0, self.row, items)

    def mean(self, items: Tensor) -> Tensor:
        """Over the items of each row: (N,D) → (R,D)."""
        return self.sum(items) / self.lengths.unsqueeze(-1).to(items.dtype)

    def softmax(self, scores: Tensor) -> Tensor:
        """Over the items of each row: (N,…) → (N,…), in float32 at least."""
        padded = self.pad(scores)  # (R,L,…)
        mask = self.mask().view(*padded.shape[:2], *[1] * (scores.ndim - 1))
        return self._unpad(softmax(_filled(padded, mask).movedim(1, -1)).movedim(-1, 1))

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Every item looks at all items of its row: (N,D) each → (N,D).

        The heads share the width; scores are divided by sqrt(D / heads).
        """
        q, k, v = (self.pad(x).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (R,h,L,d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (R,h,L,L)
        weights = softmax(_filled(scores, self.mask()[:, None, None]))
        return self._unpad((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """One query of each row looks at its items: q (R,D), k and v (N,D) → (R,D)."""
        k, v = (x.unflatten(-1, (heads, -1)) for x in (k, v))  # (N,h,d)
        q = q.unflatten(-1, (heads, -1)) * k.shape[-1] ** -0.5  # (R,h,d)
        weights = self.softmax((q[self.row] * k).sum(-1))  # (N,h)
        return self.sum(weights.to(v.dtype).unsqueeze(-1) * v).flatten(1)

    def _unpad(self, padded: Tensor) -> Tensor:
        return padded.flatten(0, 1)[self.row * padded.shape[1] + self.position]


def _filled(scores: Tensor, mask: Tensor) -> Tensor:
    """Not -inf, which makes NaN of a row without items."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
