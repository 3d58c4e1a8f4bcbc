"""Best weights, and the state from which a killed run goes on to the very same end.

Unusual: Lightning's ModelCheckpoint and EarlyStopping are not used. They hold one score, save on a batch from which a resume
crashes, and forget that training had stopped.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.lit import Lit


def save_atomically(content: Any, path: Path) -> None:
    """Complete or as it was, also when the machine goes down.

    Raises:
        SeqmtlError: the disk is full, or refuses.
    """
    buffer = io.BytesIO()  # torch.save hides the cause of a failed write
    torch.save(content, buffer)
    write_file(path, buffer.getbuffer())


def load_weights(path: Path) -> dict[str, Any]:
    """A checkpoint of best weights: {state_dict, config, step, epoch, metrics}.

    Raises:
        SeqmtlError: it is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds for a damaged file
        raise SeqmtlError(f"the checkpoint {path} is missing or damaged ({type(e).__name__}); start the run anew") from e


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's own goes through the temporary folder and does not fsync."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_atomically(checkpoint, Path(path))


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
        path: of the checkpoint; `before`: is called before each, to send what was logged so far.
    """

    def __init__(self, path: Path, every: int, before: Callable[[], None]) -> None:
        self.path = path
        self.every = every
        self.before = before

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.every == 0 and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self.before()
        trainer.save_checkpoint(self.path, weights_only=False)
