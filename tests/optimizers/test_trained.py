"""Optimizers in real trainings: equal to torch's on ordinary dense gradients, and resumed to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_cases import BY_ROWS, NAMES, largest
from torch import Tensor

from seqmtl import lit
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.lit import Lit
from seqmtl.stage import Stage
from seqmtl.steps.plain import Plain
from seqmtl.steps.terms import loss_terms, told, total

Make = Callable[..., Stage]
EXACT = "trainer.precision=64-true"  # in float32 Adam makes rounding visible: it divides it by itself where a gradient is nearly 0
L2 = "optimizer.decay=[{match: embedding, value: 0.01}]"
CASES = {"plain": (), "L2": (L2,), "histories": (), "histories, L2": (L2,)}


@pytest.fixture
def make(dataset: Path, compose: Any, tmp_path: Path) -> Any:
    """Few rows a batch, so that most of a table's rows are not read in a step.

    make("model=mmoe", …, name="a") → a stage in a folder of its own; the same name again finds what was left there.
    """
    few = ("batch_size=3", "trainer.max_batches=25", "trainer.max_epochs=2", "trainer.patience=3", "trainer.workers=0")

    def stage(*overrides: str, name: str = "run") -> Stage:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        quiet = ("trainer.threads=1", "trainer.progress=none")
        config = compose(*few, *quiet, *overrides) | {"data_dir": str(dataset.parent)}
        directory, meta = open_dataset(config)
        return Stage(config, folder, directory, meta, chosen_schema(config, meta))

    return stage


def weights(trained: Lit) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in trained.state_dict().items()}


def fitted(make: Make, *overrides: str, name: str) -> dict[str, Tensor]:
    stage = make(*overrides, name=name)
    stage.fit()
    return weights(stage.lit)


def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of seqmtl about gradients of tables: autograd makes new ones at each step."""

    def step(self: Any, model: Any, loss: Any, batch: Any) -> dict[str, Tensor]:
        output = model(batch)
        terms = loss_terms(output, loss, batch.y)
        total(terms).backward()
        return told(terms, output)

    def clear(parameters: Any) -> None:
        for parameter in parameters:
            parameter.grad = None

    monkeypatch.setattr(Plain, "__call__", step)
    monkeypatch.setattr(lit, "clear_gradients", clear)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("adam", "plain"),
        ("adam", "L2"),
        ("exact_lazy_adam", "plain"),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in (("adam", "histories"), ("exact_lazy_adam", "histories"))),
        pytest.param("adam", "histories, L2", marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_are_those_of_torch(
    name: str, case: str, make: Make, with_histories: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("model=din", *with_histories) if case.startswith("histories") else ("model=mmoe",)
    options += (EXACT, *CASES[case])
    found = fitted(make, *options, f"optimizer={name}", name="found")
    dense(monkeypatch)
    expected = fitted(make, *options, "optimizer=adam", "optimizer.fused=false", name="expected")
    assert found.keys() == expected.keys()
    for key in expected:
        assert largest(found[key], expected[key]) < 1e-10, key
    assert torch.load(tmp_path / "found" / "last.ckpt", weights_only=True)["global_step"] == 50


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_ends_with_the_same_bits(name: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model=mmoe", "model.trunk.dropout=0.2", f"optimizer={name}", "trainer.checkpoint_every=4")
    whole = make(*options, name="whole")
    whole.fit()
    real = Lit.training_step
    for at in (10, 23, 39):  # the states of step 8, 20, and 37, after a validation

        def step(self: Any, batch: Any, batch_idx: int, at: int = at) -> None:
            if self.global_step == at:
                raise Killed
            real(self, batch, batch_idx)

        cut = make(*options, name="cut")
        with monkeypatch.context() as patched:
            patched.setattr(Lit, "training_step", step)
            with pytest.raises(Killed):
                cut.fit()
        assert (tmp_path / "cut" / "last.ckpt").exists()
    cut = make(*options, name="cut")
    cut.fit()
    assert cut.lit.global_step == whole.lit.global_step == 50
    for file in ("best.ckpt", "last.ckpt"):
        a, b = (torch.load(tmp_path / n / file, weights_only=True) for n in ("cut", "whole"))
        assert equal(a["state_dict"], b["state_dict"]), file
        if file == "last.ckpt":
            assert equal(a["optimizer_states"], b["optimizer_states"])
            dtypes = [{k: v.dtype for k, v in s.items()} for s in a["optimizer_states"][0]["state"].values()]
            assert dtypes == [{k: v.dtype for k, v in s.items()} for s in b["optimizer_states"][0]["state"].values()]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_rows_are_behind_in_the_midst_of_an_epoch_and_whole_after_it(make: Make, tmp_path: Path) -> None:
    """Otherwise the tests above would show nothing of what is caught up."""
    options = ("model=mmoe", "optimizer=exact_lazy_adam", "trainer.max_epochs=1", "trainer.checkpoint_every=20")
    make(*options).fit()
    for file, behind in (("last.previous.ckpt", True), ("last.ckpt", False)):
        states = torch.load(tmp_path / "run" / file, weights_only=True)["optimizer_states"][0]["state"].values()
        (state,) = [s for s in states if "last" in s]
        assert state["last"].dtype == torch.int32
        assert bool(((state["last"] > 0) & (state["last"] < state["step"])).any()) is behind


@pytest.mark.parametrize("name", BY_ROWS)
def test_a_frozen_table_stays_as_it_is(name: str, make: Make) -> None:
    options = ("model=mmoe", f"optimizer={name}", "optimizer.freeze=[embedding]", "trainer.max_epochs=1", "trainer.max_batches=5")
    stage = make(*options)
    before = weights(stage.lit)
    stage.fit()
    after = weights(stage.lit)
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert "model.embedding.weight" in after
    assert "model.embedding.weight" not in moved
    assert moved


def test_a_balancer_which_notes_no_rows_trains_as_with_adam(make: Make) -> None:
    options = ("model=mmoe", "step=aligned_mtl", EXACT, "trainer.max_batches=12")
    found = fitted(make, *options, "optimizer=exact_lazy_adam", name="found")
    expected = fitted(make, *options, "optimizer=adam", name="expected")
    for key in expected:
        assert largest(found[key], expected[key]) < 1e-10, key


@pytest.mark.parametrize("scope", [pytest.param("all", marks=pytest.mark.slow), "dense"])
def test_maml_reads_rows_as_adam_left_them(scope: str, make: Make) -> None:
    options = ("model=mmoe", "step=maml", f"step.inner_scope={scope}", "step.alpha=0.1", EXACT, "trainer.max_batches=12")
    found = fitted(make, *options, "optimizer=exact_lazy_adam", name="found")
    expected = fitted(make, *options, "optimizer=adam", name="expected")
    for key in expected:
        assert largest(found[key], expected[key]) < 1e-10, key
