"""Trainings on several ranks are those of one process: losses, metrics, logits, selection."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from conftest import write_dataset
from on_ranks import on_ranks
from training_on_ranks import assert_alike, compare, train

Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def make(dataset: Path, compose: Compose) -> Compose:
    """A config of the tiny dataset, each step logged."""

    def config(*overrides: str) -> dict[str, Any]:
        tiny = ("batch_size=50", "trainer.max_epochs=2", "trainer.patience=2", "trainer.threads=1", "trainer.progress=none")
        made = compose(*tiny, "trainer.log_every=1", "trainer.workers=0", "model.dim=4", *overrides)
        return made | {"data_dir": str(dataset.parent)}

    return config


MODELS = {
    "shared_bottom": (),
    "mmoe": (),
    "ple": (),
    "aitm": (),
    "esmm": (),
    "escm2": (),
    "escm2_dr": ("model=escm2", "loss=escm2_dr", "model.head.imputation=error"),
    # At the paper's floor of 1e-3 four selectors, one after another, make 1e-16 into 1e-6: of rounding, not of the ranks.
    "apem": ("model.bottom.gamma.steps_to_floor=15", "model.bottom.gamma.min=0.2"),
    "man": ("model.stages.meta.step.alpha=0.5",),
    "single_task": (),
}
WITH_HISTORIES = dict.fromkeys(("dtrn", "din", "dien", "dfn", "dmt", "bst", "atrank", "youtubenet", "smallheads"), ())
WITH_HISTORIES["m2m"] = ("dataset.profile=[hour]",)
OPTIONS = {
    "calibrated": ("loss=calibrated",),
    "dependence": ("loss=dependence",),
    "uncertainty": ("loss=uncertainty",),
    "focal": ("loss=focal",),
    "escm2_ipw": ("model=escm2", "loss=escm2_ipw"),
    "dwa": ("step=dwa", "trainer.max_epochs=4"),
    "gradnorm": ("step=gradnorm",),
    "pcgrad": ("step=pcgrad",),
    "mgda": ("step=mgda",),
    "imtl_g on parameters": ("step=imtl_g", "step.at=parameters"),
    "maml": ("step=maml", "step.tasks=2", "step.alpha=0.1"),
    "freeze": ("optimizer.freeze=[embedding]",),
    "decay": ("optimizer.decay=[{match: embedding, value: 0.01}]",),
    "lazy_adam": ("optimizer=lazy_adam", "batch_size=10", "trainer.max_batches=25"),
    "rowwise_adagrad": ("optimizer=rowwise_adagrad", "batch_size=10", "trainer.max_batches=25"),
    "downsample": ("dataset.downsample={task: purchase, rate: 0.4, seed: 0}",),
    "bags": ("+dataset.bags.words=3",),
    "max_batches": ("trainer.max_batches=5",),
    "a last batch of one row": ("batch_size=599",),
    "a last batch of one row from the disk": ("batch_size=599", "dataset.storage=disk", "trainer.workers=2"),
    "from the disk": ("dataset.storage=disk", "trainer.workers=2"),
    "a batch of one row": ("batch_size=1", "trainer.max_batches=25"),
    "a batch of all rows": ("batch_size=1000", "trainer.workers=2"),
}


def without_dropout(node: dict[str, Any]) -> None:
    """Each rank draws its own."""
    for key, value in node.items():
        if isinstance(value, dict):
            without_dropout(value)
        elif key == "dropout" and value:
            node[key] = [0.0] * len(value) if isinstance(value, list) else 0.0


def named(make: Compose, cases: dict[str, tuple[str, ...]], *more: str) -> dict[str, dict[str, Any]]:
    """Configs; a case is named by its model, where it does not say another."""
    found = {}
    for name, overrides in cases.items():
        model = () if "model=" in "".join(overrides) else (f"model={name if name in MODELS | WITH_HISTORIES else 'mmoe'}",)
        found[name] = make(*model, *overrides, *more)
        without_dropout(found[name]["model"])
    return found


def test_two_ranks_train_as_one_process(make: Compose, tmp_path: Path) -> None:
    """Parameters of the loss too, a last batch of one row, which the first rank has to do without, and few rows of the tables."""
    cases = {"mmoe": ("loss=uncertainty", "batch_size=599"), "aitm": ("batch_size=8", "trainer.max_batches=20")}
    compare(2, named(make, cases), tmp_path, by=1e-5)


@pytest.mark.slow
def test_ranks_stop_early_and_select_as_one_process(make: Compose, tmp_path: Path) -> None:
    stops = ("trainer.max_epochs=12", "trainer.patience=1", "batch_size=100", "optimizer.lr=0.05")
    configs = named(make, {"mmoe": stops, "single_task": (*stops, "trainer.patience=2")})
    assert configs["single_task"]["model"]["selection"] == "each"
    compare(2, configs, tmp_path)
    for number in range(2):
        state = torch.load(tmp_path / "one" / str(number) / "main" / "last.ckpt", weights_only=True)
        assert state["epoch"] < 11, "or it has not stopped early"


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4])
def test_models_train_on_ranks_as_in_one_process(n: int, make: Compose, tmp_path: Path) -> None:
    maml = {"man": ("model.stages.meta.step.alpha=0.5", f"model.stages.meta.step.tasks={n}")}
    compare(n, named(make, MODELS | maml), tmp_path)


@pytest.mark.slow
def test_models_of_histories_train_on_ranks_as_in_one_process(make: Compose, with_histories: list[str], tmp_path: Path) -> None:
    compare(2, named(make, WITH_HISTORIES, *with_histories), tmp_path)


@pytest.fixture
def with_words(dataset: Path) -> None:
    """The tiny dataset gets a multi-valued field, and meta.json the counts of positives."""
    rng = np.random.default_rng(0)
    (dataset / "bags").mkdir()
    np.save(dataset / "bags" / "words.npy", rng.integers(0, 9, 50).astype(np.int32))
    meta = json.loads((dataset / "meta.json").read_text()) | {"bags": {"words": {"size": 9, "items": 50}}, "positives": {}}
    for split in meta["rows"]:
        whole = pl.concat([pl.read_parquet(path) for path in sorted((dataset / split).glob("*"))])
        meta["positives"][split] = {task: int(whole[task].sum()) for task in meta["parents"]}
    for shard in dataset.glob("*/*.parquet"):
        frame = pl.read_parquet(shard)
        ends, lengths = rng.integers(4, 50, len(frame)), rng.integers(0, 4, len(frame)).astype(np.int32)
        frame.with_columns(words_end=ends, words_len=lengths).write_parquet(shard)
    (dataset / "meta.json").write_text(json.dumps(meta))


@pytest.mark.slow
@pytest.mark.usefixtures("with_words")
@pytest.mark.parametrize("n", [2, 3])
def test_options_mean_on_ranks_what_they_mean_in_one_process(n: int, make: Compose, tmp_path: Path) -> None:
    compare(n, named(make, OPTIONS | {"maml": ("step=maml", f"step.tasks={n}", "step.alpha=0.1")}), tmp_path)


@pytest.mark.slow
def test_a_split_of_fewer_rows_than_ranks(make: Compose, dataset: Path, tmp_path: Path) -> None:
    shutil.rmtree(dataset)
    write_dataset(dataset, rows={"train": 100, "valid": 3, "test": 2}, seed=3)
    compare(4, named(make, {name: MODELS[name] for name in ("mmoe", "apem", "single_task")}), tmp_path)


def cut(rank: int, n: int, at: int, configs: list[dict[str, Any]], folder: str) -> None:
    """As train, but as if killed before that step."""
    from seqmtl.lit import Lit

    real = Lit.training_step

    def step(self: Lit, batch: Any, batch_idx: int) -> None:
        if self.global_step == at:
            raise KeyboardInterrupt
        real(self, batch, batch_idx)

    Lit.training_step = step  # type: ignore[method-assign]
    try:
        for config in configs:
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                train(rank, n, [config], folder)
                raise AssertionError("it was not cut off")
    finally:
        Lit.training_step = real  # type: ignore[method-assign]


NORMED = {"bn": ("model=mmoe", "model.trunk.norm=bn", "step=gradnorm", "batch_size=48", "trainer.checkpoint_every=5")}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_training_goes_on_in_the_middle_of_an_epoch(before: int, after: int, make: Compose, tmp_path: Path) -> None:
    """On as many ranks, dropout included, to the very bits; on another number as if it had been so from the start."""
    cases = NORMED if before == after else {"mmoe": ("model=mmoe", "batch_size=48", "trainer.checkpoint_every=5")}
    configs = named(make, cases)
    for config in configs.values():
        if before == after:
            config["model"]["trunk"]["dropout"] = 0.3
        else:
            config["trainer"]["precision"] = "64-true"
    todo = list(configs.values())
    whole = on_ranks(before, train, todo, str(tmp_path / "whole"))
    on_ranks(before, cut, 18, todo, str(tmp_path / "cut"))
    resumed = on_ranks(after, train, todo, str(tmp_path / "cut"))
    for rank, found in enumerate(resumed):
        for what, mine, wanted in zip(configs, found, whole[0], strict=True):
            mine["points"] = wanted["points"] if rank == 0 else []  # those before the cut are in the tracker of before
            assert_alike(mine, wanted, rank, f"{what}, rank {rank}", by=0 if before == after else 1e-6)


@pytest.mark.slow
def test_ranks_hold_the_same_weights_and_statistics_at_the_end(make: Compose, with_histories: list[str], tmp_path: Path) -> None:
    """Batch norm and Dice normalise by a rank's own rows, but what they keep for evaluation is that of all."""
    cases = {"bn": ("model=mmoe", "model.trunk.norm=bn", "batch_size=599"), "dice": ("model=din", "model.bottom.activation=dice")}
    for one, other in zip(*on_ranks(2, train, list(named(make, cases, *with_histories).values()), str(tmp_path)), strict=True):
        kept = {name: x for name, x in one["weights"].items() if "num_batches" not in name}
        assert any("running_var" in name for name in kept)
        assert all(torch.equal(x, other["weights"][name]) for name, x in kept.items())
        assert one["metrics"] == other["metrics"]


def begin(rank: int, n: int, what: str, config: dict[str, Any], folder: str) -> str:
    """Begins with something else on the second rank; what is said."""
    from seqmtl.errors import SeqmtlError

    if rank and what == "the seed":
        config["seed"] += 1
    if rank and what == "the config":
        config["optimizer"]["lr"] *= 2
    if rank and what == "torch":
        torch.__version__ = "1.0"  # type: ignore[assignment]
    if rank and what == "the weight":
        torch.manual_seed = lambda seed: torch.default_generator.manual_seed(seed + 1)  # type: ignore[method-assign]
    with pytest.raises(SeqmtlError) as caught:
        train(rank, n, [config], folder)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the seed", "the config", "torch", "the weight"])
def test_ranks_that_do_not_begin_alike_are_refused(what: str, make: Compose, tmp_path: Path) -> None:
    one, other = on_ranks(2, begin, what, make("model=mmoe"), str(tmp_path))
    assert one == other, "on every rank, so that none waits for another"
    assert f"the ranks of this job do not begin alike: {what}" in one
    assert "need the same installation" in one
