"""seqmtl as a contender: the training loop and the inference of a composed config, as `seqmtl bench` measures them."""

from __future__ import annotations

import gc
import importlib.metadata
from typing import Any

import torch

from peers.turns import read_options, take_turns
from seqmtl.bench.measure import Measured
from seqmtl.bench.verb import composed_config
from seqmtl.data.meta import read_meta
from seqmtl.process import keep_memory
from suite.models import CONF


class Ours:
    """Trains and evaluates one config, anew in each turn."""

    def __init__(self, options: Any) -> None:
        self.directory, self.meta = options.data.absolute(), read_meta(options.data)
        self.config = composed_config(options.words, [CONF])
        self.config["dataset"]["tasks"] = list(self.meta.parents)
        self.measured: Measured | None = None
        if self.config["trainer"]["accelerator"] == "cpu":
            keep_memory()  # as a job does

    def turn(self, what: str, batches: int | None) -> dict[str, Any]:
        if what == "infer":
            assert self.measured is not None
            timed, metrics = self.measured.predict(), self.measured.stage.lit.test_metrics
            auc = [metrics[f"test/auc/{task}"] for task in self.meta.parents]
            return {"rows": timed.rows, "seconds": timed.seconds, "auc": auc}
        self.measured = None
        gc.collect()  # a trainer and its model hold each other, and the next takes as much memory again
        self.measured = Measured(self.config, self.directory, self.meta, batches=batches)
        timed = self.measured.train()
        return {"rows": timed.rows, "seconds": timed.seconds, "steps": timed.steps}


if __name__ == "__main__":
    chosen = read_options(__doc__)
    ours = Ours(chosen)
    take_turns(ours.turn, {"torch": torch.__version__, "lightning": importlib.metadata.version("lightning")})
