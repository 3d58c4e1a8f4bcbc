"""A recorded step: when it runs op by op, when it is recorded, what it replays. The GPU is played by a recorder of calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seqmtl import cuda_graph
from seqmtl.cuda_graph import WARM, GraphedStep, why_not_recorded
from seqmtl.errors import SeqmtlError
from seqmtl.optimizers.lazy_adam import LazyAdam
from seqmtl.steps.plain import Plain
from seqmtl.types import Batch, Field, History, Schema, Task

SCHEMA = Schema((Field("item", 5),), (Task("click"),))
PAST = Schema((Field("item", 5),), (Task("click"),), (History("seen", "item", 3),))


class Device:
    """Of a recording it keeps what was called, and calls it again at each replay, as the kernels would run again."""

    recording = False

    def __init__(self) -> None:
        self.streams, self.recordings = 0, 0

    def wait_stream(self, other: Any) -> None:
        self.streams += 1

    def replay(self) -> None:
        self.again()

    @contextlib.contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        self.recordings += 1
        self.recording = True
        yield
        self.recording = False


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: made)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", made.graph)
    return made


class Training:
    """A step that sums ids: what runs op by op makes new tensors, what is replayed writes into those of the recording."""

    def __init__(self, device: Device) -> None:
        self.device, self.said = device, torch.zeros(1, dtype=torch.float64)
        self.trained: list[int] = []

    def __call__(self, batch: Batch) -> tuple[tuple[str, ...], torch.Tensor]:
        if self.device.recording:
            self.device.again = lambda: self.run(batch)  # type: ignore[method-assign]
            return ("sum",), self.said
        self.run(batch)
        return ("sum",), self.said.clone()

    def run(self, batch: Batch) -> None:
        self.said.fill_(float(batch.fields.sum() + batch.y.sum()))
        self.trained.append(int(self.said))


def batch(start: int, n: int = 4) -> Batch:
    return Batch(torch.arange(start, start + n, dtype=torch.int32).unsqueeze(1), torch.full((n, 1), float(start)))


def test_every_batch_is_trained_once_and_says_its_own_terms(device: Device) -> None:
    training = Training(device)
    step = GraphedStep(training, 4)
    batches = [*(batch(i) for i in range(WARM + 4)), batch(50, n=3), batch(60)]
    said = [float(step(one)[1]) for one in batches]
    expected = [int(one.fields.sum() + one.y.sum()) for one in batches]
    assert training.trained == expected
    assert said == expected
    assert device.recordings == 1


def test_short_batches_are_no_warm_up(device: Device) -> None:
    step = GraphedStep(Training(device), 4)
    for i in range(10):
        step(batch(i, n=2))
    assert device.recordings == 0
    assert step.warmed == 0


def test_what_cannot_be_recorded_is_told_in_words(device: Device) -> None:
    def train(batch: Batch) -> tuple[tuple[str, ...], torch.Tensor]:
        if device.recording:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        return ("sum",), torch.zeros(1)

    step = GraphedStep(train, 4)
    for i in range(WARM):
        step(batch(i))
    with pytest.raises(SeqmtlError, match=r"cannot be recorded \(operation not permitted .* capturing\); trainer.cuda_graph=false"):
        step(batch(WARM))


class Told(torch.nn.Module):
    """It says nothing of where it keeps the step."""

    def set_step(self, step: int) -> None:
        self.on = step >= 1000


class Fills(Told):
    follows_in_tensors = True


class Epochs(Fills):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def test_what_depends_on_the_rows_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    adam, adagrad = torch.optim.Adam([weight]), torch.optim.Adagrad([weight])
    plain, model = Plain(SCHEMA), torch.nn.Linear(1, 1)
    assert not why_not_recorded(model, plain, adam, SCHEMA)
    assert "histories" in why_not_recorded(model, plain, adam, PAST)
    model.histories = ()  # type: ignore[assignment]
    assert not why_not_recorded(model, plain, adam, PAST), "it reads none of them"
    assert "its step" in why_not_recorded(model, object(), adam, SCHEMA), "one that does not say that it may"
    assert "on the host" in why_not_recorded(model, plain, adagrad, SCHEMA)
    assert "which rows" in why_not_recorded(model, plain, LazyAdam([weight]), SCHEMA)
    for module, may in ((Told(), False), (Epochs(), False), (Fills(), True)):
        assert bool(why_not_recorded(model, plain, adam, SCHEMA, [module])) != may
    assert why_not_recorded(model, plain, adam, SCHEMA, [Told()]).startswith("Told is told the step")
    monkeypatch.setattr(cuda_graph, "world_size", lambda: 2)
    assert "ranks" in why_not_recorded(model, plain, adam, SCHEMA)
