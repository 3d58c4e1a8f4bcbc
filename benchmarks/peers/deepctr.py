"""DeepCTR-Torch: its models, one epoch of its fit, its predict and scikit-learn's AUC."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

from peers.rows import read_split, sizes_and_tasks
from peers.turns import read_options, take_turns


def library() -> Any:
    """deepctr_torch, which asks the package index for a newer version when it is imported: here it finds none and sends nothing."""
    silent: Any = ModuleType("requests")
    silent.get, silent.codes = (lambda url: SimpleNamespace(status_code=0)), SimpleNamespace(ok=200)
    sys.modules["requests"] = silent
    import deepctr_torch.inputs
    import deepctr_torch.models

    return deepctr_torch


class DeepCTR:
    """Trains and evaluates one model, anew in each turn."""

    def __init__(self, options: Any) -> None:
        self.options = options
        torch.set_num_threads(options.threads)
        sizes, self.tasks = sizes_and_tasks(options.data)
        self.library = library()
        self.columns = [self.library.inputs.SparseFeat(name, size, embedding_dim=options.dim) for name, size in sizes.items()]
        self.train, self.test = read_split(options.data, "train"), read_split(options.data, "test")
        self.model: Any = None

    def built(self) -> Any:
        """The model in the sizes of suite/models.py."""
        sizes: dict[str, Any] = {"num_experts": 8}
        if self.options.model == "ple":
            sizes = {"shared_expert_num": 3, "specific_expert_num": 3, "num_levels": 1}
        models = {"mmoe": self.library.models.MMOE, "ple": self.library.models.PLE}
        return models[self.options.model](
            self.columns,
            expert_dnn_hidden_units=(64, 32, 16),
            gate_dnn_hidden_units=(),
            tower_dnn_hidden_units=(16,),
            task_types=["binary"] * len(self.tasks),
            task_names=self.tasks,
            l2_reg_embedding=1e-6,
            device="cpu",
            **sizes,
        )

    def turn(self, what: str, batches: int | None) -> dict[str, Any]:
        return self._infer() if what == "infer" else self._train(batches)

    def _train(self, batches: int | None) -> dict[str, Any]:
        rows = self.train.first(None if batches is None else batches * self.options.batch)
        self.model = self.built()
        self.model.compile("adam", loss=["binary_crossentropy"] * len(self.tasks), metrics=[])
        started = time.perf_counter()
        self.model.fit(rows.x, rows.y, batch_size=self.options.batch, epochs=1, verbose=0)
        return {"rows": len(rows), "seconds": time.perf_counter() - started}

    def _infer(self) -> dict[str, Any]:
        started = time.perf_counter()
        p = self.model.predict(self.test.x, self.options.infer_batch)
        auc = [float(roc_auc_score(self.test.y[:, t], p[:, t])) for t in range(len(self.tasks))]
        return {"rows": len(self.test), "seconds": time.perf_counter() - started, "auc": auc}


if __name__ == "__main__":
    chosen = read_options(__doc__)
    take_turns(DeepCTR(chosen).turn, {name: importlib.metadata.version(name) for name in ("deepctr-torch", "torch", "numpy")})
