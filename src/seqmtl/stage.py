"""One stage of a training: model, loss, step and data of a config, fitted by Lightning, best weights kept."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqmtl.build import build
from seqmtl.checkpoint import LastCheckpoint, Selection, load_weights
from seqmtl.data.downsample import chosen_downsample
from seqmtl.data.meta import Meta, data_version
from seqmtl.data.storage import chosen_storage
from seqmtl.datamodule import EVAL_ROWS, DataModule, Reading
from seqmtl.errors import SeqmtlError
from seqmtl.lit import INIT, Lit, derive_seed
from seqmtl.metrics import TaskMetrics
from seqmtl.parameters import freeze, parameter_groups
from seqmtl.progress import Progress
from seqmtl.runs import config_hash
from seqmtl.tracking import Tracker
from seqmtl.trainer import lightning_trainer
from seqmtl.types import Schema


class Watch:
    """Passes the figures of a training on to MLflow and to whoever looks, and keeps the times.

    Args:
        tracker: None on all ranks but the first.
        prefix: `<stage>/` before the names of an earlier stage's metrics.
    """

    def __init__(self, tracker: Tracker | None, progress: Progress, prefix: str, train_rows: int) -> None:
        self.tracker = tracker
        self.progress = progress
        self.prefix = prefix
        self.train_rows = train_rows
        self.started = time.monotonic()
        self.whole = True  # an epoch that was resumed in its middle tells no time
        self.seconds: list[float] = []

    def epoch_started(self, epoch: int, batches: int, done: int) -> None:
        self.started, self.whole = time.monotonic(), done == 0
        self.progress.epoch_started(epoch, batches, done)

    def trained(self, values: Mapping[str, float], step: int, batch: int) -> None:
        self._log(values, step)
        self.progress.trained(values, step, batch)

    def epoch_trained(self, step: int) -> None:
        seconds = time.monotonic() - self.started
        if self.whole:
            self.seconds.append(seconds)
            self._log({"epoch_seconds": seconds, "train_rows_per_second": self.train_rows / seconds}, step)

    def validated(self, values: Mapping[str, float | None], step: int, epoch: int) -> None:
        self._log(values, step)
        self.progress.validated(values, step, epoch)

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        if self.tracker is not None:
            self.tracker.log({self.prefix + name: value for name, value in values.items()}, step)

    def flush(self) -> None:
        if self.tracker is not None:
            self.tracker.flush()


def make_parts(config: Mapping[str, Any], schema: Schema, world_size: int) -> tuple[nn.Module, nn.Module, Any]:
    """The model, loss and step of one stage.

    Raises:
        SeqmtlError: they do not fit the data, each other, or the number of ranks.
    """
    model = build(config["model"], schema=schema)
    name = config["model"]["name"]
    if schema.bags and not getattr(model, "bags", False):
        raise SeqmtlError(f"model={name} cannot use multi-valued fields (dataset.bags); take them out: dataset.bags=null")
    loss, step = build(config["loss"], schema), build(config["step"], schema)
    missing = sorted(getattr(loss, "needs", frozenset()) - getattr(model, "provides", frozenset()))
    if missing:
        raise SeqmtlError(
            f"loss={config['loss']['name']} needs {', '.join(missing)}, which model={name} does not provide as it is configured;"
            f" model={name} loss=bce works"
        )
    for part in (step, *loss.modules()):
        if hasattr(part, "refuse_ranks"):
            part.refuse_ranks(world_size)
    return model, loss, step


def try_parts(config: Mapping[str, Any], schema: Schema, world_size: int) -> None:
    """Refuse what `Stage` would, without memory or data.

    Raises:
        SeqmtlError: as `make_parts`; the optimizer does not fit its options, the parameters or the number of ranks.
    """
    with torch.device("meta"):
        model, loss, step = make_parts(config, schema, world_size)
    whole = nn.Module()  # with the names that Lit gives
    whole.model, whole.loss = model, loss
    if isinstance(step, nn.Module):
        whole.step = step
    options, decay, frozen = optimizer_options(config)
    freeze(whole.named_parameters(), frozen)
    optimizer = build(options, parameter_groups(whole.named_parameters(), decay))
    if hasattr(optimizer, "refuse_ranks"):
        optimizer.refuse_ranks(world_size)


def optimizer_options(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any], list[str]]:
    """What an optimizer's class is given, and the rules for its parameters: decay, freeze."""
    options = dict(config["optimizer"])
    decay, frozen = options.pop("decay"), options.pop("freeze")
    return options, decay, frozen


class Stage:
    """One stage, ready to fit.

    Args:
        config: of this stage, resolved.
        folder: gets best.ckpt and last.ckpt.
        directory, meta, schema: the prepared dataset and what is read of it.
        rank, world_size: this process among those of the job.
        tracker, prefix: see Watch.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        directory: Path,
        meta: Meta,
        schema: Schema,
        rank: int = 0,
        world_size: int = 1,
        tracker: Tracker | None = None,
        prefix: str = "",
    ) -> None:
        trainer, seed = config["trainer"], config["seed"]
        if trainer["threads"]:
            torch.set_num_threads(trainer["threads"])
        self.config, self.folder, self.schema, self.rank, self.world_size = config, folder, schema, rank, world_size
        torch.manual_seed(derive_seed(seed, INIT))
        model, loss, step = make_parts(config, schema, world_size)
        batch_size = config["batch_size"] * getattr(step, "batches", 1)
        optimizer, decay, frozen = optimizer_options(config)
        storage, downsample = chosen_storage(config, meta, schema), chosen_downsample(config["dataset"]["downsample"], meta)
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if trainer["accelerator"] == "gpu" else None
        reading = Reading(storage, trainer["workers"], downsample, device)
        reads = getattr(model, "histories", schema.history_names)
        self.data = DataModule(directory, meta, schema.read(reads), batch_size, seed, rank, world_size, reading)
        all_rows = self.data.rows()
        rows = min(all_rows["train"], (trainer["max_batches"] or all_rows["train"]) * batch_size)
        style = trainer["progress"] if rank == 0 else "none"
        self.watch = Watch(tracker, Progress(style, rows, trainer["max_epochs"], prefix), prefix, rows)
        self.lit = Lit(
            model=model,
            loss=loss,
            step=step,
            optimizer=lambda groups: build(optimizer, groups),
            decay=decay,
            schema=schema,
            rows=all_rows,
            seed=seed,
            rank=rank,
            log_every=trainer["log_every"],
            observer=self.watch,
            same={"the config": config_hash(config), "the seed": seed, "the version of the data": data_version(directory, meta)},
            cuda_graph=trainer["cuda_graph"],
            compiled=trainer["compile"],
        )
        freeze(self.lit.named_parameters(), frozen)
        each = config["model"]["selection"] == "each"
        self.selection = Selection(folder, schema.task_names, each, trainer["patience"], config)
        self.last = LastCheckpoint(folder, trainer["checkpoint_every"], f"{config_hash(config)} seed={seed}", self.watch.flush)
        self.trainer = lightning_trainer(trainer, [self.selection, self.last], world_size)

    @property
    def parameters(self) -> int:
        """Parameters of the model; those of a loss (uncertainty weights) are not counted."""
        return sum(p.numel() for p in self.lit.model.parameters())

    def start_from(self, best: Mapping[str, Any]) -> None:
        """Take the weights of an earlier stage's best.ckpt by name, where name and shape agree; the rest stays fresh.

        What follows the optimizer steps goes on where it stood at these weights.

        Raises:
            SeqmtlError: nothing of the model agrees.
        """
        own = self.lit.state_dict()
        best_weights = {k: v for k, v in best["state_dict"].items() if not k.startswith("step.")}  # a step begins anew
        taken = {k: v for k, v in best_weights.items() if k in own and own[k].shape == v.shape}
        if not any(name.startswith("model.") for name in taken):
            raise SeqmtlError(
                "no weights of the stage before fit into this one: their models have no parameter of the same name and shape;"
                " leave out one of the stages (model.stages.NAME=null)"
            )
        self.lit.load_state_dict(own | taken)
        self.lit.first_step = best["step"]

    def fit(self) -> None:
        """Train until the selection says stop, from the last state that is whole where there is one."""
        resume = self.last.found(self.selection, self.lit.rank)
        try:
            self.trainer.fit(self.lit, datamodule=self.data, ckpt_path=resume, weights_only=True)
        finally:
            self.watch.progress.close()
        self.watch.flush()

    @property
    def times(self) -> dict[str, float]:
        """Mean seconds of an epoch, and rows per second; nothing where no epoch was trained as a whole."""
        seconds = self.watch.seconds
        if not seconds:
            return {}
        mean = sum(seconds) / len(seconds)
        return {"epoch_seconds": mean, "train_rows_per_second": self.watch.train_rows / mean}

    def test(self) -> tuple[dict[str, float | None], Tensor]:
        """The test metrics and logits (N,T) of the best weights; the first time that the test split is read."""
        stream = self.data.test_dataloader()
        logits: Tensor | None = None
        seen: dict[int, tuple[dict[str, float | None], Tensor]] = {}
        for key, state in self.selection.state.items():
            epoch = state["epoch"]
            if epoch not in seen:
                self.lit.load_state_dict(load_weights(self.selection.path(key), state)["state_dict"])
                self.trainer.test(self.lit, dataloaders=stream, verbose=False)
                assert self.lit.test_logits is not None
                seen[epoch] = self.lit.test_metrics, self.lit.test_logits
            if logits is None:
                logits = seen[epoch][1].clone()
            elif key:
                t = self.schema.task_names.index(key)
                logits[:, t] = seen[epoch][1][:, t]
        assert logits is not None
        if self.selection.each:
            assert self.lit.test_labels is not None
            return self._measure(logits, self.lit.test_labels), logits
        return next(iter(seen.values()))

    def _measure(self, logits: Tensor, y: Tensor) -> dict[str, float | None]:
        """Test metrics of columns that come from different epochs; auc_given is scored by log p_task - log p_parent."""
        # Each rank measures some of the rows, where its peers can take part: NCCL sums nothing on the CPU.
        device = self.trainer.strategy.root_device
        metrics = TaskMetrics(self.schema, len(logits), given=True).to(device)
        for some, labels in list(zip(logits.split(EVAL_ROWS), y.split(EVAL_ROWS), strict=True))[self.rank :: self.world_size]:
            metrics.update(some.to(device), labels.to(device).float())
        return {f"test/{name}": value for name, value in metrics.compute().items()}

    def best_metrics(self) -> dict[str, float | None]:
        """Validation metrics and training loss of the best epoch; of each task's own where each has its own."""
        states = self.selection.state
        if not self.selection.each:
            return dict(states[""]["metrics"])
        return {
            name: value
            for task, state in states.items()
            for name, value in state["metrics"].items()
            if name.startswith("val/") and name.rpartition("/")[2] == task
        }
