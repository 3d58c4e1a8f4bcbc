"""Sequences of different lengths without their padding.

Most histories are short and many are empty, so work on padded ones is mostly work on nothing: a row that has no item takes no part,
and what is done to each item is done to one long list of the items that there are. Padding comes back only where the items of a row
meet each other; where all look at all, only to the longest of rows of similar length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from seqmtl.nn.probability import at_least_float32, softmax


class Ragged:
    """Which rows have items, and how many.

    Args:
        size: number of rows, of which some may have none.
        rows: (R,) those that have any, rising.
        lengths: (R,) how many each, 1 or more.
        items, longest: N and the largest of the lengths, where they are known: to ask a GPU for them is to wait for it.

    Below, N is the number of all items; they stand row after row, in each row in their order.
    `row` (N,): whose each is, counted in the R; `position` (N,): its place in its row, from 0.
    """

    def __init__(self, size: int, rows: Tensor, lengths: Tensor, items: int | None = None, longest: int | None = None) -> None:
        self.size, self.rows, self.lengths = size, rows, lengths
        if items is None or longest is None:
            items, longest = torch.stack([lengths.sum(), lengths.max()]).tolist() if len(rows) else (0, 0)
        self.longest: int = longest
        starts = lengths.cumsum(0) - lengths
        self.row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths, output_size=items)
        self.position = torch.arange(items, device=rows.device) - starts[self.row]

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
        lengths, longest = torch.cat([part.lengths for part in parts]), max(part.longest for part in parts)
        return cls(sum(part.size for part in parts), rows, lengths, sum(map(len, parts)), longest)

    def __len__(self) -> int:
        return len(self.row)

    def take(self, padded: Tensor) -> Tensor:
        """The items of right padded sequences (size,L,…) → (N,…)."""
        return padded.flatten(0, 1).index_select(0, self.rows[self.row] * padded.shape[1] + self.position)

    def pad(self, items: Tensor) -> Tensor:
        """(N,…) → (R,longest,…), 0 where there is no item."""
        width = max(1, self.longest)
        out = items.new_zeros(len(self.rows) * width, *items.shape[1:])
        return out.index_copy_(0, self.row * width + self.position, items).unflatten(0, (len(self.rows), width))

    def mask(self) -> Tensor:
        """(R,longest), where `pad` has items."""
        return torch.arange(max(1, self.longest), device=self.rows.device) < self.lengths.unsqueeze(1)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the rows that have items (R,…) → of all rows (size,…), 0 for the others."""
        return values.new_zeros(self.size, *values.shape[1:]).index_copy_(0, self.rows, values)

    def sum(self, items: Tensor) -> Tensor:
        """Over the items of each row: (N,…) → (R,…)."""
        x = at_least_float32(items)  # added one by one, half precision would round at each
        return x.new_zeros(len(self.rows), *x.shape[1:]).index_add_(0, self.row, x).to(items.dtype)

    def mean(self, items: Tensor) -> Tensor:
        """Over the items of each row: (N,D) → (R,D)."""
        return self.sum(items) / self.lengths.unsqueeze(-1).to(items.dtype)

    def softmax(self, scores: Tensor) -> Tensor:
        """Over the items of each row: (N,…) → (N,…), in float32 at least."""
        scores = at_least_float32(scores)
        if not len(self.rows):
            return scores
        largest = torch.segment_reduce(scores.detach(), "max", lengths=self.lengths)  # whatever is subtracted cancels out
        e = (scores - self.of_row(largest)).exp()
        return e / self.of_row(self.sum(e))

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Every item looks at all items of its row: (N,D) each → (N,D).

        The heads share the width; scores are divided by sqrt(D / heads).
        """
        order, out = self._order, []
        for bucket, *padded in zip(order.buckets, *(order.split(x) for x in (q, k, v)), strict=True):
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in padded)  # (r,h,l,d) each
            weights = softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bucket.bias(q)[:, None, None])  # (r,h,l,l)
            out.append(bucket.unpad((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)))
        if not out:
            return q + k + v  # of no items; a gradient of 0 for each, where None would look like a part that is not trained
        return torch.cat(out).index_select(0, order.back)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """One query of each row looks at its items: q (R,D), k and v (N,D) → (R,D)."""
        k, v = (x.unflatten(-1, (heads, -1)) for x in (k, v))  # (N,h,d)
        q = q.unflatten(-1, (heads, -1)) * k.shape[-1] ** -0.5  # (R,h,d)
        weights = self.softmax((self.of_row(q) * k).sum(-1))  # (N,h)
        return self.sum(weights.to(v.dtype).unsqueeze(-1) * v).flatten(1)

    def glimpse(self, q: Tensor, x: Tensor) -> Tensor:
        """Each query of a row takes the mean of the row's items, weighted by softmax(q·x): q (R,Q,D), x (N,D) → (R,Q,D)."""
        x = self.pad(x)  # (R,L,D)
        scores = (q @ x.transpose(1, 2)).masked_fill(~self.mask().unsqueeze(1), -torch.inf)  # (R,Q,L)
        return softmax(scores).to(x.dtype) @ x

    def of_row(self, values: Tensor) -> Tensor:
        """To each item its row's value: (R,…) → (N,…)."""
        return values.index_select(0, self.row)

    @cached_property
    def _order(self) -> _Order:
        return _Order(self)


class _Order:
    """The rows by length, cut into buckets: of up to 4 items, up to 8, up to 16, and so on.

    Attention costs the square of the padded length. On a CPU a bucket has at most 256 rows: scores in memory that was just in use
    are faster than in memory that the system has to find.

    `items` (N,): which stand where; `back` (N,): where each went.
    """

    def __init__(self, ragged: Ragged) -> None:
        device = ragged.rows.device
        lengths, order = ragged.lengths.sort(stable=True)
        by_length = Ragged(len(lengths), order, lengths, len(ragged), ragged.longest)
        starts = ragged.lengths.cumsum(0) - ragged.lengths
        self.items = starts[order][by_length.row] + by_length.position
        self.back = torch.empty_like(self.items).index_copy(0, self.items, torch.arange(len(ragged), device=device))
        ends = torch.tensor([2**i for i in range(2, max(2, (ragged.longest - 1).bit_length()))], device=device)
        sizes: list[int] = torch.bucketize(lengths, ends).bincount().tolist()
        most = 256 if device.type == "cpu" else max(1, len(lengths))
        rows = [min(most, n - start) for n in sizes for start in range(0, n, most)]
        last = torch.tensor(rows, dtype=torch.int64, device=device).cumsum(0) - 1
        found = torch.stack([lengths[last], lengths.cumsum(0)[last]], 1).tolist()
        self.buckets, row, item = [], 0, 0
        for n, (width, end) in zip(rows, found, strict=True):
            place = (by_length.row[item:end] - row) * width + by_length.position[item:end]
            self.buckets.append(_Bucket(lengths[row : row + n], width, place))
            row, item = row + n, end

    def split(self, items: Tensor) -> list[Tensor]:
        """The items of each bucket, padded: (N,…) → (r,l,…)."""
        parts = items.index_select(0, self.items).split([len(b.place) for b in self.buckets])
        return [bucket.pad(part) for bucket, part in zip(self.buckets, parts, strict=True)]


class _Bucket(NamedTuple):
    """Rows of similar length: how long each is, the longest, and where their items stand when padded."""

    lengths: Tensor
    width: int
    place: Tensor

    def pad(self, items: Tensor) -> Tensor:
        """(n,…) → (r,l,…)."""
        out = items.new_zeros(len(self.lengths) * self.width, *items.shape[1:])
        return out.index_copy_(0, self.place, items).unflatten(0, (len(self.lengths), self.width))

    def unpad(self, padded: Tensor) -> Tensor:
        """(r,l,…) → (n,…)."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def bias(self, like: Tensor) -> Tensor:
        """What is added to scores: (r,l), 0 for an item, -inf for padding; every row has an item."""
        there = torch.arange(self.width, device=like.device) < self.lengths.unsqueeze(1)
        return like.new_zeros(there.shape).masked_fill(~there, -torch.inf)
