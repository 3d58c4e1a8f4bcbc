"""What stands inside the model of a finished run, for given test rows.

Unusual: a model knows nothing of figures. What a module was given and what it returned is noted by forward hooks while its best
weights read the rows, and found by the module's name: `trunk.ait.0`, `bottom.layers.2`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqmtl.build import runner, stage_config, stages
from seqmtl.checkpoint import load_weights
from seqmtl.data.histories import Histories
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.data.rows import Rows
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.datamodule import EVAL_ROWS
from seqmtl.errors import SeqmtlError
from seqmtl.job import read_config
from seqmtl.runs import Run
from seqmtl.stage import make_parts
from seqmtl.types import Batch, Output, Schema


class Call(NamedTuple):
    """One call of a module: what it was given and what it returned."""

    inputs: tuple[Any, ...]
    output: Any


Calls = Mapping[str, Sequence[Call]]  # by the module's name, in their order: a module may be called several times
Keep = Callable[[Calls, Output], Mapping[str, Tensor]]  # of one batch: what is wanted of it, each (B,…)


def collect(model: nn.Module, batches: Iterator[Batch], names: Sequence[str], keep: Keep) -> dict[str, NDArray[Any]]:
    """Let a model read batches, and keep of each what is wanted of the calls of some modules.

    Returns:
        {what: (N,…)} over all batches.

    Raises:
        SeqmtlError: the model has no module of a name.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise SeqmtlError(f"the model has no module '{unknown[0]}'; it has {', '.join(filter(None, modules))}")
    calls: dict[str, list[Call]] = {name: [] for name in names}
    kept: dict[str, list[NDArray[Any]]] = {}
    handles = [modules[name].register_forward_hook(partial(_note, calls[name])) for name in names]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                for of_module in calls.values():
                    of_module.clear()
                output = model(batch)
                for what, values in keep(calls, output).items():
                    kept.setdefault(what, []).append(values.float().numpy())
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return {what: np.concatenate(parts) for what, parts in kept.items()}


def _note(calls: list[Call], module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    calls.append(Call(inputs, output))


class Inner:
    """A finished run: its model with the best weights, and its test rows.

    Args:
        run_dir: of the run.

    Attributes:
        config: of the run's last stage.
        schema: of all that the run's config takes of the data.
        model: on the CPU.

    Raises:
        SeqmtlError: it is not finished, or of other data than there are now, or no torch module, or has not one set of weights.
    """

    def __init__(self, run_dir: Path) -> None:
        config = read_config(run_dir)
        self.run_dir = run_dir
        self.directory, self.meta = open_dataset(config)
        if Run(run_dir).state(data_version(self.directory, self.meta)) != "finished":
            raise SeqmtlError(f"the run {run_dir} is not finished on the data that are there now; run its command again")
        if runner(config) is not None:
            raise SeqmtlError(f"model={config['model']['name']} is no torch module: nothing inside it can be looked at")
        self.config = stage_config(config, stages(config)["main"])
        if self.config["model"]["selection"] != "sum":
            raise SeqmtlError(f"{run_dir} has weights of its own for each task; a look inside takes model.selection=sum")
        self.schema = chosen_schema(self.config, self.meta)
        self.model, _, _ = make_parts(self.config, self.schema, 1)
        weights = load_weights(run_dir / "best.ckpt")["state_dict"]
        own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
        self.model.load_state_dict(own)
        self.model.eval()

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Of all test rows (N,T), as the run kept them."""
        kept: NDArray[np.float32] = np.load(self.run_dir / "test_logits.npy", mmap_mode="r", allow_pickle=False)
        return kept

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """Of all test rows, (N,T)."""
        schema = replace(self.schema, fields=self.schema.fields[:1], histories=(), main_history=None)
        shards = self._shards(schema)
        return np.concatenate([shards.read([block]).y for block in range(len(shards.sizes))])

    def lengths(self, history: str) -> NDArray[np.int32]:
        """How many items of a history all test rows have, cut at what the model reads, (N,)."""
        max_len = {h.name: h.max_len for h in self.schema.histories}
        if history not in max_len:
            raise SeqmtlError(f"the run reads no history '{history}'; it reads {', '.join(max_len) or 'none'}")
        shards = self._shards(replace(self.schema.read([history]), fields=self.schema.fields[:1], main_history=None))
        lengths = np.concatenate([shards.read([block]).length[:, 0] for block in range(len(shards.sizes))])
        return np.minimum(lengths, max_len[history])

    def task(self, name: str) -> int:
        """The index of a task.

        Raises:
            SeqmtlError: the run has no such task.
        """
        if name not in self.schema.task_names:
            raise SeqmtlError(f"the run has no task '{name}'; it has {', '.join(self.schema.task_names)}")
        return self.schema.task_names.index(name)

    def read(self, places: NDArray[np.int64], names: Sequence[str], keep: Keep) -> dict[str, NDArray[Any]]:
        """As `collect`, of the test rows at some places, in the order of the places.

        Raises:
            SeqmtlError: as `collect`; there are no rows.
        """
        if not len(places):
            raise SeqmtlError(f"there are no test rows to look at in {self.directory}")
        order = np.argsort(places, kind="stable")  # a shard is read from its beginning to its end
        back = np.argsort(order, kind="stable")
        found = collect(self.model, self._batches(places[order]), names, keep)
        return {what: values[back] for what, values in found.items()}

    def _batches(self, places: NDArray[np.int64]) -> Iterator[Batch]:
        reads = getattr(self.model, "histories", self.schema.history_names)
        schema = self.schema.read(reads)
        histories = Histories(self.directory, self.meta, schema) if schema.histories or schema.bags else None
        for rows in self._rows(self._shards(schema), places):
            yield from Stream(rows, EVAL_ROWS, histories=histories)

    def _rows(self, shards: Shards, places: NDArray[np.int64]) -> Iterator[Rows]:
        """The rows of each block that holds any."""
        ends = np.cumsum(shards.sizes)
        block = np.searchsorted(ends, places, "right")
        for b in np.unique(block).tolist():
            yield shards.read([b]).take(places[block == b] - (ends[b] - shards.sizes[b]))

    def _shards(self, schema: Schema) -> Shards:
        return Shards(self.directory, self.meta, schema, "test")
