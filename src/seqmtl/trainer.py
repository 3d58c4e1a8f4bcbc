"""Lightning's Trainer, with nothing of its own, and how the ranks of a job find each other."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from seqmtl.checkpoint import AtomicCheckpointIO
from seqmtl.process import end


class Ranks(DDPStrategy):
    """A process group without the DDP wrapper: it would miss gradients that a step writes itself (see lit.py)."""

    def setup_distributed(self) -> None:
        """Ranks of one node meet in a file (launch/ranks.py); those of several at torchrun's MASTER_ADDR."""
        store = os.environ.get("SEQMTL_STORE")
        if store and not dist.is_initialized():
            rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            device = self.root_device if self.root_device.type == "cuda" else None
            dist.init_process_group(
                self._get_process_group_backend(),
                store=dist.FileStore(store, world_size),
                rank=rank,
                world_size=world_size,
                device_id=device,
            )
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Leave the model as it is."""


class EndsAtOnce(L.Callback):
    """SIGTERM ends the process: Lightning's own handler waits for the next batch, and talks to ranks that may be gone."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, end)


def lightning_trainer(options: Mapping[str, Any], callbacks: list[L.Callback], world_size: int) -> L.Trainer:
    """Lightning's Trainer with nothing of its own: no logger, no files, no sampler."""
    # Lightning 2.6 asks torch 2.13 in an old way; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # launcher=slurm calls it, where it is asked
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its notes on which accelerators this machine has not
    strategy: Any = options["strategy"]
    if world_size > 1 or strategy == "ddp":
        strategy = Ranks(process_group_backend="gloo" if options["accelerator"] == "cpu" else "nccl")
    # Of itself Lightning would take the tasks of a Slurm job for its ranks.
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # what was started: of another sweep, it may be on more devices
    environment = TorchElasticEnvironment() if world_size > 1 else LightningEnvironment()
    torch.set_float32_matmul_precision("high" if options["precision"] == "tf32" else "highest")
    trainer = L.Trainer(
        accelerator=options["accelerator"],
        devices=local_size,
        num_nodes=world_size // local_size,
        strategy=strategy,
        precision="32-true" if options["precision"] == "tf32" else options["precision"],
        max_epochs=options["max_epochs"],
        limit_train_batches=1.0 if options["max_batches"] is None else options["max_batches"],
        callbacks=[EndsAtOnce(), *callbacks],
        plugins=[AtomicCheckpointIO(), environment],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=True,
        default_root_dir=os.devnull,
    )
    # Deterministic algorithms would also write every new tensor once, to show what reads of it before it is filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer
