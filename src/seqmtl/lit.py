"""The one LightningModule around any architecture. It knows no model, loss or step by name.

Unusual: optimization is manual and there is no DDP wrapper. A step leaves gradients in `.grad`, weighted by the rank's share of
the global batch's rows; here they are summed over the ranks (ranks.py), so that n ranks equal one process.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn

from seqmtl.compiled import compile_model
from seqmtl.cuda_graph import GraphedStep, why_batches_differ, why_not_recorded
from seqmtl.metrics import TaskMetrics
from seqmtl.nn.table_gradients import clear_gradients, release_gradients
from seqmtl.parameters import parameter_groups
from seqmtl.ranks import Exchange, gathered, refuse_difference
from seqmtl.term_means import TermMeans, stacked
from seqmtl.types import Batch, Schema

log = logging.getLogger("seqmtl")

Step = Callable[[nn.Module, nn.Module, Batch], dict[str, Tensor]]

INIT, DROPOUT = 1, 2  # streams of random numbers; the order of rows (data/stream.py) is a third


def derive_seed(seed: int, *stream: int) -> int:
    """A seed for one stream of random numbers, so that a model with more dropout still sees the rows in the same order."""
    return int(np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0] >> 1)


class Observer(Protocol):
    """What a job does with the figures of a training: sends them to MLflow, shows them."""

    def epoch_started(self, epoch: int, batches: int, done: int) -> None: ...

    def trained(self, values: Mapping[str, float], step: int, batch: int) -> None: ...

    def epoch_trained(self, step: int) -> None: ...

    def validated(self, values: Mapping[str, float | None], step: int, epoch: int) -> None: ...


class Lit(L.LightningModule):
    """Trains `model` by `loss` and measures every task.

    Args:
        model: any nn.Module with forward(batch) → Output.
        loss: (output, y) → {term: value}; its own parameters are trained too.
        step: how a batch becomes gradients; where it is a module, its state is kept and its parameters are trained too.
        optimizer: parameter groups → optimizer.
        schema, rows: names of the tasks; rows of each split.
        seed, rank: of dropout.
        log_every: optimizer steps between two points of the training loss.
        observer: is told the figures.
        same: facts that must be the same on all ranks, beside the weights.
        cuda_graph: on a GPU, record a step once and replay it, where it can be (cuda_graph.py).
        compiled: run the model through torch.compile, for whole batches, where it can be.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        step: Step,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        decay: Sequence[Mapping[str, Any]],
        schema: Schema,
        rows: Mapping[str, int],
        seed: int,
        rank: int,
        log_every: int,
        observer: Observer,
        same: Mapping[str, object] | None = None,
        cuda_graph: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.loss = loss
        self.step = step
        self.make_optimizer = optimizer
        self.decay = decay
        self.schema = schema
        self.rows = rows
        self.seed = seed
        self.rank = rank
        self.log_every = log_every
        self.observer = observer
        self.same = dict(same or {})
        why_not = why_batches_differ(model, step, schema)
        if compiled and why_not:
            log.info("trainer.compile: the model runs as it is, as %s", why_not)
        self.cuda_graph, self.compiled = cuda_graph, compiled and not why_not
        if self.compiled:
            compile_model(self.model)
        self.exchange = Exchange()
        self.first_step = 0  # optimizer steps of earlier stages in the weights that this one starts from
        self.followers = [m for m in self.modules() if m is not self and hasattr(m, "set_step")]
        self.epoch_followers = [m for m in self.modules() if m is not self and hasattr(m, "set_epoch")]
        self.trained: list[nn.Parameter] = []
        self.interval = TermMeans()  # since the terms were last logged
        self.epoch_terms = TermMeans()  # since the epoch began
        self.whole_rows = 0  # rows of a whole batch of the split at hand
        self._graphed: GraphedStep | None = None
        self.val_metrics: dict[str, float | None] = {}
        self.test_metrics: dict[str, float | None] = {}
        self.test_logits: Tensor | None = None
        self.test_labels: Tensor | None = None
        # In a tuple, so that nn.Module does not take the metrics' states for a part of the model.
        self._metrics: tuple[TaskMetrics, ...] = ()
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._scalars: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(parameter_groups(self.named_parameters(), self.decay))

    # -- training

    def on_train_start(self) -> None:
        start = {"torch": torch.__version__, "the number of optimizer steps so far": self.global_step}
        refuse_difference(self, start | self.same)
        self.trained = [p for p in self.parameters() if p.requires_grad]
        clear_gradients(self.trained)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.whole_rows = self.trainer.train_dataloader.batch_size
        self._graphed = self._recorder(optimizer)
        self._tell_step()
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if done:  # resumed in the middle of an epoch, whose start Lightning does not tell again
            self.observer.epoch_started(self.current_epoch, self.trainer.num_training_batches, done)

    def _recorder(self, optimizer: torch.optim.Optimizer) -> GraphedStep | None:
        """What records the step, if it is asked for, on a GPU, where it can be."""
        wanted = self.cuda_graph and self.device.type == "cuda"
        told = [*self.followers, *self.epoch_followers]
        why_not = why_not_recorded(self.model, self.step, optimizer, self.schema, told) if wanted else ""
        if wanted and why_not:
            log.info("trainer.cuda_graph: this training runs op by op, as %s", why_not)
        recorded = wanted and not why_not
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = recorded
        for state in optimizer.state.values() if recorded else ():  # of a checkpoint that was made elsewhere
            state["step"] = state["step"].to(self.device)
        return GraphedStep(self._train, self.whole_rows) if recorded else None

    def on_train_epoch_start(self) -> None:
        # Lightning gives the loader its state only when it resumes in the middle of an epoch.
        self.trainer.train_dataloader.set_epoch(self.current_epoch)
        self.epoch_terms = TermMeans()
        self.whole_rows = self.trainer.train_dataloader.batch_size
        for module in self.epoch_followers:
            module.set_epoch(self.current_epoch)
        self.observer.epoch_started(self.current_epoch, self.trainer.num_training_batches, 0)

    def _compiled(self, batch: Batch) -> contextlib.AbstractContextManager[Any]:
        """Where the model is compiled, it is so for whole batches: a shorter one would have to be compiled anew."""
        whole = not self.compiled or len(batch) == self.whole_rows
        return contextlib.nullcontext() if whole else torch.compiler.set_stance("force_eager")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Lightning saves no state of the random numbers: each batch has its own seed instead.
        seed = derive_seed(self.seed, DROPOUT, self.current_epoch, batch_idx, self.rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a hundred times as long
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        said = self._graphed(batch) if self._graphed else self._train(batch)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()  # as Lightning's wrapper of the optimizer does, which a graph cannot hold
        progress.increment_completed()
        self._tell_step()
        self.interval.add(*said)
        self.epoch_terms.add(*said)
        if self.global_step % self.log_every == 0:
            self._log_interval(batch_idx)

    def on_train_end(self) -> None:
        self._catch_up()
        self._graphed = None
        release_gradients(self.trained)

    def _catch_up(self) -> None:
        """Some optimizers leave weights behind that no batch reads; who takes all of them wants them whole.

        Not before a checkpoint to go on from: it holds which rows are behind, and a run that nobody disturbs does not stop there.
        """
        for optimizer in self.trainer.optimizers:
            if hasattr(optimizer, "catch_up"):
                optimizer.catch_up()

    def _train(self, batch: Batch) -> tuple[tuple[str, ...], Tensor]:
        """Forward, backward and update; gradients are cleared before and after. Returns the names and values of the terms."""
        with self._compiled(batch):
            terms = self.step(self.model, self.loss, batch)
        terms = self.exchange(self, terms, batch.share)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.step()
        clear_gradients(self.trained)
        return stacked(terms)

    def _tell_step(self) -> None:
        for module in self.followers:
            module.set_step(self.first_step + self.global_step)

    def _log_interval(self, batch_idx: int) -> None:
        self.observer.trained(self.interval.means(), self.global_step, batch_idx + 1)
        self.interval = TermMeans()

    def train_terms(self) -> dict[str, float]:
        """Mean loss and terms of the epoch that was trained last."""
        return self.epoch_terms.means()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["terms"] = {"interval": self.interval.state(), "epoch": self.epoch_terms.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        terms = checkpoint.get("terms", {})
        self.interval, self.epoch_terms = (TermMeans.restored(terms.get(key, {})) for key in ("interval", "epoch"))

    # -- evaluation

    def on_validation_epoch_start(self) -> None:
        self._catch_up()
        self.observer.epoch_trained(self.global_step)
        self._metrics = (TaskMetrics(self.schema, self.rows["valid"]).to(self.device),)
        self.whole_rows = self.trainer.val_dataloaders.batch_size
        self._scalars = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._update(batch)

    def on_validation_epoch_end(self) -> None:
        measured = self._metrics[0].compute() | _row_means(self._scalars, self.rows["valid"])
        self.val_metrics = {f"val/{name}": value for name, value in measured.items()}
        self._metrics = ()
        self.observer.validated(self.val_metrics, self.global_step, self.current_epoch)

    def on_test_epoch_start(self) -> None:
        self._metrics = (TaskMetrics(self.schema, self.rows["test"], given=True).to(self.device),)
        self.whole_rows = self.trainer.test_dataloaders.batch_size
        self._logits, self._labels = [], []
        self._scalars = {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._logits.append(self._update(batch).cpu())
        self._labels.append(batch.y.to(torch.int8).cpu())

    def on_test_epoch_end(self) -> None:
        measured = self._metrics[0].compute() | _row_means(self._scalars, self.rows["test"])
        self.test_metrics = {f"test/{name}": value for name, value in measured.items()}
        self._metrics = ()
        # In the order of the rows: each rank holds a contiguous range of them.
        self.test_logits, self.test_labels = (torch.cat(gathered(torch.cat(mine))) for mine in (self._logits, self._labels))
        self._logits, self._labels = [], []

    def _update(self, batch: Batch) -> Tensor:
        with self._compiled(batch):
            output = self.model(batch)
        logits = output.logits.float()
        self._metrics[0].update(logits, batch.y, output.extras.get("conditional"))
        for name, value in output.extras.items():
            # What a part wants to show, as APEM the share of its selectors.
            if value.ndim == 0 and len(batch) and not name.startswith("loss_"):
                self._scalars[f"extra/{name}"] = self._scalars.get(f"extra/{name}", 0.0) + value.double() * len(batch.y)
        return logits


def _row_means(totals: Mapping[str, Tensor], rows: int) -> dict[str, float | None]:
    """{name: mean over the rows of all ranks}."""
    mine = {name: float(total) for name, total in totals.items()}
    ranks = gathered(mine)  # a rank without rows has no names
    names = dict.fromkeys(name for rank in ranks for name in rank)
    return {name: sum(rank.get(name, 0.0) for rank in ranks) / rows for name in names}
