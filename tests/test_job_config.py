"""What a job is asked for: what does not fit is refused in words, and every option is read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqmtl import job
from seqmtl.errors import SeqmtlError
from seqmtl.runs import Run


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("loss=calibrated", "dataset.tasks=[click]"), "the calibrator needs .* click is alone"),
        (("model=aitm", "loss=bce", "dataset.tasks=[click]"), "AITM needs .* click is alone"),
        (("+model.trunk.colour=1",), "cannot build 'shared_bottom'.*colour"),
        (("optimizer.decay=[{match: nothing_like_it, value: 1}]",), "'nothing_like_it' matches no parameter; they are"),
        (("optimizer.lr=-1",), "cannot build 'adam'.*learning rate"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(plan: Any, overrides: tuple[str, ...], says: str) -> None:
    run_dir = plan(*overrides)
    with pytest.raises(SeqmtlError, match=says):
        job.run(run_dir)
    assert Run(run_dir).status()["state"] == "failed"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.precision=16-mixed", "trainer.precision must be one of 32-true, tf32, bf16-mixed"),
        ("model.selection=best", "model.selection must be one of sum, each"),
        ("trainer.accelerator=quantum", "trainer.accelerator must be one of cpu, gpu"),
        ("trainer.progress=loud", "trainer.progress must be one of"),
        ("trainer.max_batches=0", "trainer.max_batches must be an integer of at least 1 or null, not 0"),
        ("trainer.log_every=0", "trainer.log_every must be an integer of at least 1"),
        ("trainer.checkpoint_every=0", "trainer.checkpoint_every must be an integer of at least 1"),
        ("trainer.devices=auto", "trainer.devices must be an integer of at least 1, not 'auto'"),
        ("dataset.tasks=click", r"dataset\.tasks must be a list: dataset\.tasks=\[click\]"),
        ("dataset.tasks=[]", r"dataset\.tasks is empty"),
    ],
)
def test_a_config_that_cannot_run_is_refused_before_it_starts(plan: Any, override: str, says: str) -> None:
    from seqmtl.plan import check

    with pytest.raises(SeqmtlError, match=says):
        check(job.read_config(plan(override)))


class Needy(torch.nn.Module):
    """A loss that wants what no head here gives."""

    needs = frozenset({"imputed_error"})


def test_a_wrong_pair_is_refused_before_any_data_are_read(plan: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.plan import check

    monkeypatch.setenv("SEQMTL_ALLOW", __name__)

    shutil.rmtree(dataset)
    config = job.read_config(plan("model=mmoe"))
    config["loss"] = {"name": "needy", "_target_": f"{__name__}.Needy", "_partial_": True}
    with pytest.raises(SeqmtlError, match=r"loss=needy needs imputed_error, which model=mmoe does not provide .*loss=bce works"):
        check(config)


class Seen(dict):  # type: ignore[type-arg]
    """A config that remembers which of its leaves were asked for."""

    def __init__(self, content: dict[str, Any], path: str = "", seen: set[str] | None = None) -> None:
        self.path, self.seen = path, set() if seen is None else seen
        super().__init__({k: Seen(v, f"{path}{k}.", self.seen) if isinstance(v, dict) else v for k, v in content.items()})

    def __getitem__(self, key: str) -> Any:
        self.seen.add(self.path + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(self.path + key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.seen.add(self.path + key)
        return super().pop(key, *default)

    def __deepcopy__(self, memo: dict[int, Any]) -> Seen:
        return Seen(dict(self.items()), self.path, self.seen)


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            # A class takes all its arguments or refuses them (test_cli: an unknown one).
            yield from () if "_target_" in value else leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_option_is_read(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl import stage
    from seqmtl.plan import check

    real = stage.Selection
    # A checkpoint takes a plain config only.
    monkeypatch.setattr(stage, "Selection", lambda *args: real(*args[:4], {}))
    run_dir = plan("model=single_task")
    config = Seen(job.read_config(run_dir))
    monkeypatch.setattr(job, "read_config", lambda _: config)
    check(config)
    job.run(run_dir)
    elsewhere = {
        "raw_dir",  # prepare
        "debug",  # cli.py, on Hydra's own config
        "allow",  # cli.py
        "dataset.about",  # only where the data are not prepared (test_table)
        # batch_size, prepare.simulate.rates, trunks and losses take them by interpolation
        *("dataset.batch_size", "dataset.rates", "dataset.profile", "dataset.transfer"),
    }
    groups = ("trainer", "optimizer", "step", "launcher")  # their names are shown by --cfg job and logged
    unread = set(leaves(config)) - config.seen - elsewhere - {f"{g}.name" for g in groups}
    assert not unread
