"""Damaged files of a run: they are named, what is left is used, and the end is that of an undisturbed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqmtl import job
from seqmtl.checkpoint import LAST, PREVIOUS, AtomicCheckpointIO, DamagedError, read_checkpoint
from seqmtl.errors import SeqmtlError
from seqmtl.lit import Lit
from seqmtl.runs import Run


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def flip(path: Path) -> None:
    """One bit in the middle of the largest tensor's data."""
    whole = bytearray(path.read_bytes())
    tensors = torch.load(path, weights_only=True)["state_dict"].values()
    data = max(tensors, key=torch.Tensor.numel).contiguous().numpy().tobytes()
    at = whole.index(data) + len(data) // 2
    whole[at] ^= 1
    path.write_bytes(whole)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    """A checkpoint that is whole, but another one."""
    torch.save({"state_dict": {"w": torch.ones(3)}, "epoch": -1}, path)


Damage = Callable[[Path], None]
DAMAGES = [flip, truncate, empty, other]
SLOWER = [flip, *(pytest.param(damage, marks=pytest.mark.slow) for damage in DAMAGES[1:])]


@pytest.mark.parametrize("damage", [flip, truncate, empty])
def test_a_damaged_checkpoint_is_not_read(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"small": torch.ones(2), "large": torch.rand(1000)}}, path)
    assert read_checkpoint(path)["state_dict"]["small"].tolist() == [1, 1]
    damage(path)
    if damage is flip:
        torch.load(path, weights_only=True)  # which is why the checksums are compared
    with pytest.raises(DamagedError, match=r"a\.ckpt is missing or damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_whole_checkpoint_is_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Killed before the first, before the second and after the second rename of a writing."""
    writer, path = AtomicCheckpointIO(), tmp_path / LAST

    def save(n: int) -> None:
        writer.save_checkpoint({"state_dict": {"n": torch.tensor(n)}}, path)

    save(1)
    save(2)
    real, calls = Path.replace, iter(range(9))

    def replace(self: Path, target: Path) -> Path:
        if next(calls) == moment:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    if moment < 2:
        with pytest.raises(KeyboardInterrupt):
            save(3)
    else:
        save(3)
    found = [int(read_checkpoint(p)["state_dict"]["n"]) for p in (path, tmp_path / PREVIOUS) if p.exists()]
    assert found == [[2, 1], [2], [3, 2]][moment]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the job may tidy up."""


def cut_off(run_dir: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until that optimizer step of the last stage."""
    real = Lit.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step == at and type(self.step).__name__ != "MAML":
            raise Killed
        real(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(Lit, "training_step", step)
        patched.setattr(job, "_failed", lambda *_: None)
        with pytest.raises(Killed):
            job.run(run_dir)


def trained_steps(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Run to the end; the stage and number of each optimizer step that it took."""
    real, steps = Lit.training_step, []

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        steps.append((type(self.step).__name__, self.global_step))
        real(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(Lit, "training_step", step)
        job.run(run_dir)
    return steps


def assert_same(run_dir: Path, expected: Path) -> None:
    for name in ("metrics.json", "test_logits.npy"):
        assert (run_dir / name).read_bytes() == (expected / name).read_bytes(), name
    assert Run(run_dir).status()["state"] == "finished"
    assert not list(run_dir.rglob(PREVIOUS)), "a finished run needs none"


def assert_one_mlflow_run(run_dir: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run_dir.parent}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("aliccp_sim").experiment_id])
    for key in run.data.metrics:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
        assert len(set(steps)) == len(steps), f"{key}: no point twice"


OPTIONS = ("model=mmoe", "model.trunk.dropout=0.2", "trainer.checkpoint_every=5")  # 12 steps an epoch, 3 epochs


@pytest.mark.parametrize("damage", SLOWER)
def test_a_damaged_state_is_named_and_the_one_before_used(plan: Any, damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = plan(*OPTIONS, name="whole"), plan(*OPTIONS, name="cut")
    job.run(whole)
    cut_off(cut, 23, monkeypatch)
    damage(cut / LAST)
    steps = trained_steps(cut, monkeypatch)
    assert steps[0] == ("Plain", 17), "the state before, of step 17, and not that of step 22"
    assert_same(cut, whole)
    log = (cut / "job.log").read_text()
    assert str(cut / LAST) in log
    assert f"going on from {cut / PREVIOUS}" in log
    assert (cut / "last.damaged.ckpt").exists()
    assert_one_mlflow_run(cut)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("names", "first"), [((LAST, PREVIOUS), 0), (("best.ckpt",), 0), ((PREVIOUS,), 22)])
def test_without_a_whole_state_a_training_begins_anew(
    plan: Any, damage: Damage, names: tuple[str, ...], first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best weights cannot be remade from a later state; a damaged older state is of no matter."""
    whole, cut = plan(*OPTIONS, name="whole"), plan(*OPTIONS, name="cut")
    job.run(whole)
    cut_off(cut, 23, monkeypatch)
    for name in names:
        damage(cut / name)
    assert trained_steps(cut, monkeypatch)[0] == ("Plain", first)
    assert_same(cut, whole)
    log = (cut / "job.log").read_text()
    assert ("begins anew" in log) == (first == 0)
    assert all(str(cut / name) in log for name in names) or first
    assert_one_mlflow_run(cut)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_of_an_earlier_stage_are_made_again(plan: Any, damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model=man", "trainer.checkpoint_every=5", "trainer.max_epochs=2")
    whole, cut = plan(*options, name="whole"), plan(*options, name="cut")
    job.run(whole)
    cut_off(cut, 18, monkeypatch)
    damage(cut / "meta" / "best.ckpt")
    steps = trained_steps(cut, monkeypatch)
    meta = [step for kind, step in steps if kind == "MAML"]
    assert meta == list(range(len(meta))), "the first stage, from its start"
    assert steps[len(meta)][1] == 17, "the second where it was"
    assert_same(cut, whole)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_are_damaged_before_the_test_are_told(plan: Any, damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmtl.stage import Stage

    whole, cut = plan(*OPTIONS, name="whole"), plan(*OPTIONS, name="cut")
    job.run(whole)
    real = Stage.test
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "test", lambda self: (damage(cut / "best.ckpt"), real(self))[1])
        with pytest.raises(SeqmtlError, match=r"best\.ckpt .*run the same command again: it trains anew"):
            job.run(cut)
    job.run(cut)
    assert_same(cut, whole)
    assert (cut / "attempt-1" / LAST).exists()


def test_damaged_results_are_made_again_without_a_training(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, run_dir = plan(*OPTIONS, name="whole"), plan(*OPTIONS, name="run")
    job.run(whole)
    job.run(run_dir)
    version = Run(whole).status()["data_version"]
    metrics, logits = run_dir / "metrics.json", run_dir / "test_logits.npy"
    another_digit = metrics.read_text().replace("0.5", "0.6", 1)
    assert json.loads(another_digit)
    damages: list[Callable[[], Any]] = [
        lambda: metrics.write_text(another_digit),
        lambda: metrics.write_text("[]"),
        lambda: truncate(metrics),
        metrics.unlink,
        lambda: truncate(logits),
        logits.unlink,
    ]
    for number, damage in enumerate(damages):
        damage()
        assert not Run(run_dir).finished(version), number
        if number in (0, 4):
            assert trained_steps(run_dir, monkeypatch) == []
            assert_same(run_dir, whole)
        else:
            metrics.write_bytes((whole / "metrics.json").read_bytes())
            logits.write_bytes((whole / "test_logits.npy").read_bytes())
        assert Run(run_dir).finished(version)
    assert not list(run_dir.glob("attempt-*"))
    assert_one_mlflow_run(run_dir)


@pytest.mark.slow
def test_a_damaged_status_is_a_run_of_which_nothing_is_known(plan: Any) -> None:
    """Of which data its state is, too: its files are kept, and it starts anew."""
    run_dir = plan(*OPTIONS)
    job.run(run_dir)
    before = (run_dir / "metrics.json").read_bytes()
    truncate(run_dir / "status.json")
    job.run(run_dir)
    assert (run_dir / "metrics.json").read_bytes() == before == (run_dir / "attempt-1" / "metrics.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "[]", '{"steps": 3'])
def test_a_stage_of_which_it_is_not_known_that_it_is_finished(plan: Any, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model=man", "trainer.checkpoint_every=5", "trainer.max_epochs=2")
    whole, cut = plan(*options, name="whole"), plan(*options, name="cut")
    job.run(whole)
    cut_off(cut, 18, monkeypatch)
    (cut / "meta" / "fitted.json").write_text(content)
    assert trained_steps(cut, monkeypatch)[0] == ("Plain", 17), "its last state says that there is nothing left to train"
    assert_same(cut, whole)


@pytest.mark.parametrize("content", ["", "a: [", "- 1\n"])
def test_a_damaged_config_is_told_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(SeqmtlError, match="the command that began this run writes it anew"):
        job.read_config(tmp_path)


def test_a_lost_rank_is_told_from_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo's words are those of torch 2.13; test_kill.py kills real ranks."""
    from torch.distributed import DistBackendError

    gone = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:40609")
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not job._lost_peer(gone), "one process has no peers"
    monkeypatch.setattr(job, "WORLD_SIZE", 2)
    assert job._lost_peer(gone)
    assert job._lost_peer(DistBackendError("NCCL error"))
    assert not job._lost_peer(error)
