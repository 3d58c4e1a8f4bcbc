"""Means of the terms of a loss over batches, kept on the device: to read a value at every step would wait for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class TermMeans:
    """Sums what is added, batch by batch, in float64.

    Shapes: a term is (); a term that only some batches have is averaged over all.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._sums: dict[tuple[str, ...], Tensor] = {}  # {names: (n,)}: mostly one entry, as all batches have the same terms

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """One batch: values (n,) float64, of n terms."""
        self.batches += 1
        if names in self._sums:
            # A state is read before Lightning knows the device.
            self._sums[names] = self._sums[names].to(values.device) + values
        else:
            self._sums[names] = values.clone()

    def means(self) -> dict[str, float]:
        """{train/<term>: mean over the batches} and as `train/loss` their total, less what is only shown; {} without a batch."""
        if not self.batches:
            return {}
        sums: dict[str, float] = {}
        for names, values in self._sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
        means = {f"train/{name}": value / self.batches for name, value in sums.items()}
        return {"train/loss": sum(v for k, v in means.items() if not k.startswith("train/extra/"))} | means

    def state(self) -> dict[str, Any]:
        """What `restored` makes the same sums of; the tensors are copies."""
        return {"batches": self.batches, "sums": [(list(names), values.clone()) for names, values in self._sums.items()]}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> TermMeans:
        """The sums of a state; empty ones of an empty state."""
        made = cls()
        made.batches = state.get("batches", 0)
        made._sums = {tuple(names): values for names, values in state.get("sums", ())}
        return made


def stacked(terms: Mapping[str, Tensor]) -> tuple[tuple[str, ...], Tensor]:
    """Names and values of a batch's terms: (n,) float64."""
    return tuple(terms), torch.stack([value.double() for value in terms.values()])
