"""torch-rechub: its models, its DataGenerator, one epoch of its MTLTrainer, its evaluate."""

from __future__ import annotations

import importlib.metadata
import time
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import AITM, ESMM, MMOE, PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

from peers.rows import read_split, sizes_and_tasks
from peers.turns import read_options, take_turns

KIND = "classification"


def built(name: str, features: list[Any], tasks: int) -> torch.nn.Module:
    """A model in the sizes of suite/models.py."""
    tower = {"dims": [128, 64, 32], "dropout": 0.2}
    expert, narrow = {"dims": [64, 32, 16]}, [{"dims": [16]} for _ in range(tasks)]
    if name == "aitm":
        return AITM(features, tasks, tower, [{"dims": []} for _ in range(tasks)])
    if name == "mmoe":
        return MMOE(features, [KIND] * tasks, 8, expert, narrow)
    if name == "ple":
        return PLE(features, [KIND] * tasks, 1, 3, 3, expert, narrow)
    half = len(features) // 2
    return ESMM(features[:half], features[half:], dict(tower), dict(tower))


class Rechub:
    """Trains and evaluates one model, anew in each turn."""

    def __init__(self, options: Any) -> None:
        self.options = options
        torch.set_num_threads(options.threads)
        sizes, tasks = sizes_and_tasks(options.data)
        self.features = [SparseFeature(name, size, embed_dim=options.dim) for name, size in sizes.items()]
        self.tasks = len(tasks)
        self.train, self.test = read_split(options.data, "train"), read_split(options.data, "test")
        self.trainer: Any = None

    def labels(self, y: Any) -> Any:
        """Its ESMM wants a column for the conditional step too, whose loss it leaves out."""
        return np.stack([y[:, 1], y[:, 0], y[:, 1]], 1) if self.options.model == "esmm" else y

    def turn(self, what: str, batches: int | None) -> dict[str, Any]:
        return self._infer() if what == "infer" else self._train(batches)

    def _train(self, batches: int | None) -> dict[str, Any]:
        rows = self.train.first(None if batches is None else batches * self.options.batch)
        y = self.labels(rows.y)
        model = built(self.options.model, self.features, self.tasks)
        adam = {"lr": 1e-3, "weight_decay": 1e-6}
        self.trainer = MTLTrainer(model, [KIND] * y.shape[1], optimizer_params=adam, n_epoch=1)
        loader, _, _ = DataGenerator(rows.x, y).generate_dataloader(rows.x, y, rows.x, y, batch_size=self.options.batch)
        started = time.perf_counter()
        self.trainer.train_one_epoch(loader)
        return {"rows": len(rows), "seconds": time.perf_counter() - started}

    def _infer(self) -> dict[str, Any]:
        x, y = self.test.x, self.labels(self.test.y)
        _, loader, _ = DataGenerator(x, y).generate_dataloader(x, y, x, y, batch_size=self.options.infer_batch)
        started = time.perf_counter()
        scores = self.trainer.evaluate(self.trainer.model, loader)
        return {"rows": len(self.test), "seconds": time.perf_counter() - started, "auc": [float(score) for score in scores]}


if __name__ == "__main__":
    chosen = read_options(__doc__)
    take_turns(Rechub(chosen).turn, {name: importlib.metadata.version(name) for name in ("torch-rechub", "torch", "numpy")})
