"""What hooks find inside a model is what its equations say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from seqmtl.errors import SeqmtlError
from seqmtl.figures import selector, task_space, transfer
from seqmtl.figures.inner import Inner, collect
from seqmtl.nn.smooth_step import smooth_step
from seqmtl.runs import Run

Load = Callable[..., Inner]
PLACES = np.array([299, 3, 150, 151, 0])  # of both shards, not in order
AITM = ("model=aitm", "model.dim=4", "model.trunk.dims=[8,6]", "model.trunk.dropout=0", "dataset.tasks=[click,cart,purchase]")
DTRN = ("model=dtrn", "model.dim=8", "model/trunk=towers", "model.trunk.dims=[4]", "model.trunk.dropout=0")
APEM = ("model=apem", "model.dim=4", "model.bottom.layers=2", "model.bottom.inducing=5")


def test_rows_are_read_in_the_order_of_their_places(dataset: Path, inner: Load) -> None:
    run = inner(dataset, "model=shared_bottom", "model.dim=4")
    found = run.read(PLACES, [], lambda calls, output: {"logits": output.logits})
    np.testing.assert_allclose(found["logits"], run.logits[PLACES], rtol=1e-5)
    rows = pl.concat([pl.read_parquet(path) for path in sorted((dataset / "test").glob("*.parquet"))])
    np.testing.assert_array_equal(run.labels, rows.select("click", "purchase").to_numpy())


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("task", "edge", "parent"), [("cart", 0, "click"), ("purchase", 1, "cart")])
def test_what_aitm_transfers(chain: Path, inner: Load, shared: bool, task: str, edge: int, parent: str) -> None:
    run = inner(chain, *AITM, f"model.trunk.ait_shared={str(shared).lower()}")
    named, names, keep = transfer.edge_to(run, task)
    assert named == parent
    trunk = run.model.trunk
    assert isinstance(trunk, nn.Module)

    def both(calls: Any, output: Any) -> dict[str, Any]:
        z = calls["bottom"][0].output
        return {**keep(calls, output), "towers": trunk.towers(z), "trunk": calls["trunk"][0].output}

    found = {name: torch.from_numpy(x) for name, x in run.read(PLACES, [*names, "bottom", "trunk"], both).items()}
    p, q, z, w = (found[name] for name in "pqzw")
    t = run.task(task)
    ait = trunk.ait[0 if shared else edge]
    torch.testing.assert_close(q, found["towers"][:, t])
    torch.testing.assert_close(p, torch.relu(trunk.g[edge].layers[0][0](found["trunk"][:, t - 1].unsqueeze(1))).squeeze(1))
    scores = torch.stack([(ait.w_2(u) * ait.w_3(u)).sum(1) for u in (p, q)], 1) / 6**0.5
    torch.testing.assert_close(w, scores.softmax(1))
    assert w[:, 0].std() > 1e-4, "a case in which the rows differ"
    torch.testing.assert_close(z, w[:, :1] * ait.w_1(p) + w[:, 1:] * ait.w_1(q))
    torch.testing.assert_close(z, found["trunk"][:, t])


def test_nothing_is_transferred_to_a_root_or_in_another_model(chain: Path, inner: Load) -> None:
    run = inner(chain, *AITM)
    with pytest.raises(SeqmtlError, match="nothing is transferred to 'click'"):
        transfer.edge_to(run, "click")
    with pytest.raises(SeqmtlError, match="no task 'like'"):
        transfer.edge_to(run, "like")
    run.model.trunk = nn.Identity()
    with pytest.raises(SeqmtlError, match="without AITM's transfer"):
        transfer.edge_to(run, "cart")


def test_what_apem_selects_and_embeds(dataset: Path, inner: Load) -> None:
    run = inner(dataset, *APEM)
    bottom: Any = run.model.bottom
    bottom.set_step(49_000)  # γ = 0.2: some switches are off, some on, some between
    with torch.no_grad():
        for layer in bottom.layers:
            layer.selector[1].bias.uniform_(-0.3, 0.3)
    seen: list[torch.Tensor] = []

    def keep(calls: Any, output: Any) -> dict[str, torch.Tensor]:
        seen.extend(calls[f"bottom.layers.{layer}"][0].inputs[0] for layer in range(2))
        return {}

    run.read(PLACES, ["bottom.layers.0", "bottom.layers.1"], keep)
    by_block = [torch.cat(seen[layer::2]) for layer in range(2)]  # rows in the order of the shards
    pairs = zip(bottom.layers, by_block, strict=True)
    with torch.no_grad():
        zeta = [smooth_step(layer.selector(h.flatten(1).unsqueeze(1)).squeeze(1), 0.2) for layer, h in pairs]
    rates = selector.rates(run, np.sort(PLACES))
    np.testing.assert_allclose(rates, torch.stack([(z > 0).float().mean(1) for z in zeta], 1), atol=1e-6)
    assert ((rates > 0) & (rates < 1)).any()
    assert len(np.unique(rates)) > 1
    rows = pl.concat([pl.read_parquet(path) for path in sorted((dataset / "test").glob("*.parquet"))])
    ids = torch.from_numpy(rows.select("user", "item", "hour").to_numpy()[PLACES])
    embedded = run.model.embedding(ids).flatten(1)  # type: ignore[operator]
    np.testing.assert_allclose(selector.embeddings(run, PLACES), embedded.detach().numpy())


def test_rates_need_a_selector(dataset: Path, inner: Load) -> None:
    run = inner(dataset, *APEM, "model.bottom.asrg=self_attention")
    with pytest.raises(SeqmtlError, match="without APEM's dynamic selector"):
        selector.rates(run, PLACES)


def test_the_bottoms_of_dtrn_are_what_its_trunk_reads(dataset: Path, with_histories: list[str], inner: Load) -> None:
    run = inner(dataset, *DTRN, *with_histories)
    read = run.read(PLACES, ["trunk"], lambda calls, output: {"z": calls["trunk"][0].inputs[0]})["z"]
    r = task_space.bottoms(run, PLACES)
    np.testing.assert_array_equal(r, read)
    assert r.shape == (5, 2, (3 + 2) * 8)
    assert np.abs(r[:, 0] - r[:, 1]).max() > 1e-4, "each task has its own"


@pytest.mark.parametrize("history", ["seen", "passed"])
def test_the_interest_of_a_history_is_nothing_where_that_history_is_empty(
    dataset: Path, with_histories: list[str], inner: Load, history: str
) -> None:
    run = inner(dataset, *DTRN, *with_histories, "model.bottom.inner.empty=zero")
    lengths = run.lengths(history)
    assert lengths.max() == {"seen": 4, "passed": 3}[history], "cut at what the model reads"
    interest = task_space.interests(run, np.arange(300), history)
    assert interest.shape == (300, 2, 8)
    np.testing.assert_array_equal((interest != 0).any((1, 2)), lengths > 0)
    with pytest.raises(SeqmtlError, match="no history 'like'"):
        task_space.interests(run, PLACES, "like")


def test_the_interests_stand_in_tims_order(dataset: Path, with_histories: list[str], inner: Load) -> None:
    run = inner(dataset, *DTRN, *with_histories)
    raw = run.read(PLACES, ["bottom.inner"], lambda calls, output: {"raw": calls["bottom.inner"][0].output})["raw"]
    found = [task_space.interests(run, PLACES, history) for history in ("seen", "passed")]
    np.testing.assert_array_equal(np.concatenate(found, 2), raw[..., 3 * 8 :])


def test_what_ple_gives_the_towers(dataset: Path, inner: Load) -> None:
    run = inner(dataset, "model=ple", "model.dim=4", "model.trunk.tower_dims=[6]")
    found = run.read(PLACES, ["trunk.towers"], lambda calls, output: {"x": calls["trunk.towers"][0].inputs[0]})
    np.testing.assert_array_equal(task_space.experts(run, PLACES), found["x"])
    with pytest.raises(SeqmtlError, match="without TRM"):
        task_space.bottoms(run, PLACES)


def test_hooks_are_gone_afterwards_also_when_it_fails(dataset: Path, inner: Load) -> None:
    run = inner(dataset, "model=mmoe", "model.dim=4")

    def fails(calls: Any, output: Any) -> dict[str, Any]:
        raise ZeroDivisionError

    run.model.train()
    with pytest.raises(ZeroDivisionError):
        run.read(PLACES, ["trunk"], fails)
    assert run.model.training
    assert not any(module._forward_hooks for module in run.model.modules())
    with pytest.raises(SeqmtlError, match=r"no module 'tronk'; it has .*trunk"):
        collect(run.model, iter(()), ["tronk"], fails)
    with pytest.raises(SeqmtlError, match="no test rows"):
        run.read(np.array([], np.int64), [], fails)


def test_a_run_that_is_not_finished_is_refused(dataset: Path, finished: Any) -> None:
    run_dir = finished(dataset, "model=mmoe", "model.dim=4")
    Run(run_dir).write_status("failed", error="no luck")
    with pytest.raises(SeqmtlError, match="not finished on the data"):
        Inner(run_dir)


def test_weights_of_each_task_are_refused(dataset: Path, finished: Any) -> None:
    run_dir = finished(dataset, "model=mmoe", "model.dim=4", "model.selection=each")
    with pytest.raises(SeqmtlError, match=r"model\.selection=sum"):
        Inner(run_dir)
