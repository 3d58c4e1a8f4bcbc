"""What a job does with rows that come from the disk, with histories, multi-valued fields, and thinned negatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from torch import Tensor, nn

from seqmtl import job
from seqmtl.errors import SeqmtlError
from seqmtl.types import Batch, Features, Output, Schema


class Pool(nn.Module):
    """A bottom that reads nothing but the mean of one history."""

    histories = ("past",)

    def __init__(self, schema: Schema, dim: int) -> None:
        super().__init__()
        self.width = dim

    def forward(self, features: Features) -> Tensor:
        items, mask = features.past["past"]
        return (items * mask.unsqueeze(-1)).sum(1, keepdim=True)


class Unable(nn.Module):
    """A model of its own kind, which knows nothing of multi-valued fields."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(len(schema.tasks)))

    def forward(self, batch: Batch) -> Output:
        return Output(self.bias.expand(len(batch), -1))


@pytest.fixture
def told_by_the_past(dataset: Path) -> Path:
    """The tiny dataset; a row clicks if the one item of its history is even, and its history is also a multi-valued field."""
    meta = json.loads((dataset / "meta.json").read_text())
    flat = np.arange(30, dtype=np.int32)
    for folder in ("histories", "bags"):
        (dataset / folder).mkdir()
    np.save(dataset / "histories" / "past.npy", flat)
    np.save(dataset / "bags" / "words.npy", flat)
    positives: dict[str, dict[str, int]] = {}
    for split in ("train", "valid", "test"):
        positives[split] = dict.fromkeys(("click", "purchase"), 0)
        for shard in (dataset / split).glob("*.parquet"):
            frame = pl.read_parquet(shard)
            item = np.random.default_rng(len(frame)).integers(0, 30, len(frame))
            click = (item % 2 == 0).astype(np.int8)
            ends = {f"{name}_end": item + 1 for name in ("past", "words")}
            lengths = {f"{name}_len": np.ones(len(frame), np.int32) for name in ("past", "words")}
            frame = frame.with_columns(click=click, purchase=click, **ends, **lengths)
            frame.write_parquet(shard)
            positives[split] = {task: n + int(click.sum()) for task, n in positives[split].items()}
    meta |= {"histories": {"past": {"field": "item", "items": 30}}, "bags": {"words": {"size": 30, "items": 30}}}
    (dataset / "meta.json").write_text(json.dumps(meta | {"positives": positives}))
    return dataset


def edited(run_dir: Path, **dataset: Any) -> dict[str, Any]:
    config = job.read_config(run_dir)
    config["dataset"] |= dataset
    config["optimizer"]["lr"] = 0.05
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    return config


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_bottom_gets_the_histories_that_it_reads(
    plan: Any, told_by_the_past: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQMTL_ALLOW", "test_job_rows")
    run_dir = plan("model=shared_bottom", "model.dim=4", f"dataset.storage={storage}")
    config = edited(run_dir, histories={"past": {"max_len": 3}}, main_history="past")
    config["model"]["bottom"] = {"_target_": "test_job_rows.Pool", "_partial_": True}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert job.run(run_dir)["test/auc/click"] > 0.95, "nothing but the history tells the click"


def test_a_model_learns_from_a_multi_valued_field(plan: Any, told_by_the_past: Path) -> None:
    without, with_bag = plan("model=shared_bottom", name="without"), plan("model=shared_bottom", name="with")
    edited(without)
    edited(with_bag, bags={"words": 3})
    assert job.run(without)["test/auc/click"] < 0.7
    assert job.run(with_bag)["test/auc/click"] > 0.95


def test_a_model_that_cannot_use_multi_valued_fields_says_so(
    plan: Any, told_by_the_past: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQMTL_ALLOW", "test_job_rows")
    run_dir = plan("model=shared_bottom")
    config = edited(run_dir, bags={"words": 3})
    config["model"] = {"name": "unable", "_target_": "test_job_rows.Unable", "_partial_": True, "selection": "sum"}
    config["model"]["stages"] = {"main": {}}
    config["optimizer"]["decay"] = []
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SeqmtlError, match=r"model=unable cannot use multi-valued fields .*dataset\.bags=null"):
        job.run(run_dir)


def test_negatives_are_left_out_of_training_and_not_of_the_test(
    plan: Any, told_by_the_past: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqmtl.steps.plain import Plain

    seen: list[Tensor] = []
    real = Plain.__call__

    def spy(self: Any, model: Any, loss: Any, batch: Batch) -> Any:
        seen.append(batch.y)
        return real(self, model, loss, batch)

    monkeypatch.setattr(Plain, "__call__", spy)
    run_dir = plan("model=shared_bottom", "trainer.max_epochs=1")
    edited(run_dir, downsample={"task": "click", "rate": 0.9, "seed": 0})
    job.run(run_dir)
    y = torch.cat(seen)
    positives = json.loads((told_by_the_past / "meta.json").read_text())["positives"]["train"]["click"]
    assert y[:, 0].sum() == positives, "no positive is lost"
    assert abs(float(y[:, 0].mean()) - 0.9) < 0.05
    assert np.load(run_dir / "test_logits.npy").shape == (300, 2)


@pytest.mark.parametrize("when", ["while it trains", "while it tests"])
def test_data_that_are_prepared_anew_under_a_run_are_refused(
    plan: Any, dataset: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are as many, but the ids mean something else: nothing but the version tells."""
    from seqmtl.stage import Stage

    name = "fit" if when == "while it trains" else "test"
    real = getattr(Stage, name)

    def swapped(self: Stage) -> Any:
        done = real(self)
        for shard in dataset.glob("*/*.parquet"):
            frame = pl.read_parquet(shard)
            frame.with_columns(user=39 - pl.col("user")).write_parquet(shard)
        return done

    monkeypatch.setattr(Stage, name, swapped)
    run_dir = plan("model=shared_bottom", "trainer.max_epochs=1")
    with pytest.raises(SeqmtlError, match="were prepared anew while this run trained on them; run the command again"):
        job.run(run_dir)
    assert not (run_dir / "metrics.json").exists()
