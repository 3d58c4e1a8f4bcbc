"""Best weights, and the state from which a killed run goes on to the very same end.

Unusual: Lightning's ModelCheckpoint and EarlyStopping are not used. They hold one score, save on a batch from which a resume
crashes, and forget that training had stopped. And every checkpoint is compared with its checksums when it is read: torch.load
does not, so that a bit that has changed on the disk would pass for a weight.
"""

from __future__ import annotations

import io
import logging
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.lit import Lit

log = logging.getLogger("seqmtl")

LAST = "last.ckpt"
PREVIOUS = "last.previous.ckpt"  # what was the last one before, should that be damaged


def save_atomically(content: Any, path: Path, previous: Path | None = None) -> None:
    """Complete or as it was, also when the machine goes down; what stood there is kept as `previous`, where one is given.

    Raises:
        SeqmtlError: the disk is full, or refuses.
    """
    buffer = io.BytesIO()  # torch.save hides the cause of a failed write
    torch.save(content, buffer)
    write_file(path, buffer.getbuffer(), previous)


class DamagedError(SeqmtlError):
    """A checkpoint that is missing, damaged, or not the one that it should be."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Its content, compared with the CRC-32 of each record; the tensors stay in the file until they are used.

    Raises:
        DamagedError: it is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as e:  # torch raises many kinds for a damaged file
        reason = f"{type(e).__name__}: {e}".splitlines()[0][:200]
        raise DamagedError(f"the checkpoint {path} is missing or damaged ({reason})") from e
    if not isinstance(content, dict) or "state_dict" not in content:
        raise DamagedError(f"{path} is no checkpoint")
    return content


def load_weights(path: Path, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A checkpoint of best weights: {state_dict, config, step, epoch, score, metrics}.

    Args:
        state: of the selection; the weights must be those that it chose.

    Raises:
        SeqmtlError: it is missing or damaged, or has other weights than those.
    """
    try:
        content = read_checkpoint(path)
        if state is not None and (content.get("epoch"), content.get("score")) != (state["epoch"], state["score"]):
            raise DamagedError(f"{path} does not have the weights of the best epoch")
    except DamagedError as e:
        raise SeqmtlError(f"{e}; run the same command again: it trains anew") from e
    return content


def set_aside(path: Path) -> None:
    """Out of the way, for whoever wants to look at it."""
    if path.exists():
        path.replace(path.with_name(f"{path.stem}.damaged{path.suffix}"))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's own goes through the temporary folder and does not fsync."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_atomically(checkpoint, Path(path), Path(path).with_name(PREVIOUS))


class Selection(L.Callback):
    """Keeps the best weights and says when to stop.

    AITM's rule (its code): training stops after `patience` epochs in which the sum of the validation AUCs did not grow. With
    `each`, every task keeps its own best epoch and training stops when the patience of all is spent.
    Where no task has an AUC on the validation split (one class only), the sum of the LogLosses decides.

    Args:
        folder: gets best.ckpt, or with `each` best.<task>.ckpt.
        tasks: names of the tasks.
        each: one best epoch per task.
        patience: epochs.
        config: resolved, plain; stands in the checkpoint.
    """

    def __init__(self, folder: Path, tasks: tuple[str, ...], each: bool, patience: int, config: dict[str, Any]) -> None:
        self.folder = folder
        self.each = each
        self.tasks = tasks
        self.patience = patience
        self.config = config
        self.state: dict[str, dict[str, Any]] = {
            key: {"score": -math.inf, "epoch": -1, "waited": 0, "metrics": {}} for key in (tasks if each else ("",))
        }

    def path(self, key: str) -> Path:
        return self.folder / (f"best.{key}.ckpt" if key else "best.ckpt")

    def damaged(self, state: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """Which of the best weights a training could not go on with from this state.

        They may be of a later epoch: a kill between their writing and that of the state is put right by the epoch's repetition.
        """
        found = []
        for key, of_key in state.items():
            try:
                whole = of_key["epoch"] < 0 or read_checkpoint(self.path(key)).get("epoch", -1) >= of_key["epoch"]
            except DamagedError:
                whole = False
            if not whole:
                found.append(self.path(key))
        return found

    @property
    def finished(self) -> bool:
        return all(s["waited"] >= self.patience for s in self.state.values())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self.finished  # Lightning saves no should_stop: a stopped run would train on

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Lit)
        metrics = pl_module.val_metrics
        for key, state in self.state.items():
            score = selection_score(metrics, [key] if key else self.tasks)
            if score > state["score"]:
                state.update(score=score, epoch=pl_module.current_epoch, waited=0)
                state["metrics"] = metrics | pl_module.train_terms()
                if trainer.is_global_zero:
                    step = pl_module.first_step + pl_module.global_step
                    content = {"state_dict": pl_module.state_dict(), "config": self.config, "step": step} | state
                    save_atomically(content, self.path(key))
            else:
                state["waited"] += 1
        trainer.should_stop = trainer.should_stop or self.finished

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict["state"]


def selection_score(metrics: Mapping[str, float | None], tasks: list[str] | tuple[str, ...]) -> float:
    """The sum of the validation AUCs that are defined; without any, minus the sum of the LogLosses."""
    aucs = [v for task in tasks if (v := metrics[f"val/auc/{task}"]) is not None]
    if aucs:
        return sum(aucs)
    losses = [metrics[f"val/logloss/{task}"] for task in tasks]
    return -sum(v for v in losses if v is not None)


class LastCheckpoint(L.Callback):
    """Writes the state to go on from, every `every` optimizer steps and at the end of each epoch.

    Never on an epoch's last batch: the validation that follows would be lost on resume.

    Args:
        folder: gets last.ckpt and, as last.previous.ckpt, the one before.
        run: what tells this training from others; a state of another one is none to go on from.
        before: is called before each, to send what was logged so far.
    """

    def __init__(self, folder: Path, every: int, run: str, before: Callable[[], None]) -> None:
        self.folder = folder
        self.every = every
        self.run = run
        self.before = before

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run

    def found(self, selection: Selection, rank: int) -> Path | None:
        """The newest state that is whole, with its best weights; None where there is none, and training begins anew.

        What is not whole is told and set aside by the first rank. The others may look before or after: a file that is gone is to
        them what a damaged one is, so all find the same.
        """
        there = [path for path in (self.folder / LAST, self.folder / PREVIOUS) if path.exists()]
        for path in there:
            try:
                content = read_checkpoint(path)
                if content.get("run") != self.run:
                    raise DamagedError(f"{path} is not a state of this training")
                unfit = selection.damaged(content["callbacks"][selection.state_key]["state"])
                if not unfit:
                    log.info("going on from %s", path)
                    return path
                log.warning("missing or damaged, so that %s is of no use: %s", path, ", ".join(map(str, unfit)))
            except DamagedError as e:
                log.warning("%s", e)
                unfit = []
            if rank == 0:
                for damaged in (path, *unfit):
                    set_aside(damaged)
        if there:
            log.warning("no whole state is left in %s: this training begins anew", self.folder)
        return None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.every == 0 and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self.before()
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
