"""Gradient balancers on two processes, beside one; and a run that is cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from balancer_cases import STEPS, Small, step_of
from torch import Tensor, nn

from seqmtl import job
from seqmtl.types import Batch, Output

CASES = [(name, ()) for name in STEPS] + [(name, ("at=parameters",)) for name in ("pcgrad", "imtl_g")]
# Rows of the global batches, and where the first rank's end; of the last it has none and trains on another row of weight 0.
BATCHES = [(0, 16, 11), (16, 32, 24), (32, 48, 41), (48, 64, 49), (0, 16, 5), (16, 32, 24), (63, 64, 63)]


def loss(output: Output, y: Tensor) -> dict[str, Tensor]:
    per_task = nn.functional.binary_cross_entropy_with_logits(output.logits, y, reduction="none").mean(0)
    return {"bce": per_task, "size": 0.1 * (output.logits[:, 0] - output.logits[:, 1]).square().mean()}


def train(name: str, overrides: tuple[str, ...], rank: int, ranks: int) -> dict[str, Any]:
    """Gradients and weights of some steps, as lit.py would sum them."""
    torch.manual_seed(3)
    model = Small().double()
    fields = torch.stack([torch.randint(0, 7, (64,)), torch.randint(0, 5, (64,))], 1)
    y = (torch.rand(64, 2) < 0.4).double()
    step = step_of(name, *overrides)
    found: dict[str, Any] = {"gradients": [], "weights": []}
    for number, (start, stop, middle) in enumerate(BATCHES):
        if number % 2 == 0 and hasattr(step, "set_epoch"):
            step.set_epoch(number // 2)
        lo, hi = (start, stop) if ranks == 1 else ((start, middle), (middle, stop))[rank]
        share = (hi - lo) / (stop - start)
        lo, hi = (0, 1) if hi == lo else (lo, hi)
        torch.manual_seed(10 * number + rank)  # PCGrad draws another order on each rank
        model.zero_grad()
        terms = step(model, loss, Batch(fields[lo:hi], y[lo:hi], share=share))
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
        if ranks > 1:
            dist.all_reduce(gradient)
        found["gradients"].append(gradient)
        found["weights"].append(torch.stack([v for k, v in terms.items() if k.startswith("extra/weight")]).double())
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradient.split([p.numel() for p in model.parameters()]), strict=True):
                p -= 0.1 * g.view_as(p)
    return found


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    torch.save([train(*case, rank, 2) for case in CASES], folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradients_and_weights_of_one_process(tmp_path: Path) -> None:
    here = Path(__file__)
    path = os.pathsep.join(str(p) for p in (here.parent, here.parents[1] / "models", here.parents[1]))
    command = [sys.executable, str(here)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)]
    expected = [train(*case, 0, 1) for case in CASES]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for case, mine, wanted in zip(CASES, found, expected, strict=True):
            for number in range(len(BATCHES)):
                for what in ("weights", "gradients"):
                    torch.testing.assert_close(
                        mine[what][number],
                        wanted[what][number],
                        rtol=1e-5,
                        atol=1e-9,
                        msg=lambda m, w=f"{case}, batch {number}, {what}, rank {rank}": f"{w}: {m}",
                    )
    weights = {case: torch.stack(mine["weights"]) for case, mine in zip(CASES, expected, strict=True)}
    assert all(w.std(0).max() > 1e-4 for w in weights.values()), "weights that never change would show nothing"


@pytest.mark.slow
@pytest.mark.parametrize("step", ["gradnorm", "pcgrad"])
def test_two_ranks_end_as_one_process(plan: Any, step: str) -> None:
    options = ("model=mmoe", "model.trunk.dropout=0", "trainer.max_epochs=2", "batch_size=599", f"step={step}")
    one, two = plan(*options, name="one"), plan(*options, "trainer.devices=2", "trainer.strategy=ddp", name="two")
    expected = job.run(one)
    torchrun = [sys.executable, "-m", "seqmtl.launch.ranks", "--ranks=2"]
    subprocess.run([*torchrun, str(two)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=180)
    found = json.loads((two / "metrics.json").read_text())
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert "train/extra/weight_click" in found
    assert np.allclose(np.load(one / "test_logits.npy"), np.load(two / "test_logits.npy"), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["dwa", "gradnorm", "pcgrad"])
@pytest.mark.parametrize("batch", [29, 36])  # the last of the third epoch's 12 is 35: in the middle of an epoch, and at its start
def test_a_resumed_run_equals_an_undisturbed_one(plan: Any, monkeypatch: pytest.MonkeyPatch, step: str, batch: int) -> None:
    options = ("model=mmoe", f"step={step}", "trainer.max_epochs=5", "trainer.patience=9", "trainer.checkpoint_every=2")
    one, two = plan(*options, name="one"), plan(*options, name="two")
    expected = job.run(one)
    from seqmtl.lit import Lit

    real = Lit.training_step

    def cut(self: Lit, *args: Any) -> None:
        if self.global_step == batch:
            raise KeyboardInterrupt
        real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Lit, "training_step", cut)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            job.run(two)
    assert job.run(two) == expected
    assert (one / "test_logits.npy").read_bytes() == (two / "test_logits.npy").read_bytes()
    states = [torch.load(run / "best.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
