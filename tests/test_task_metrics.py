"""The metrics of all tasks: their names and values, what is undefined, several ranks, other devices."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from seqmtl.errors import SeqmtlError
from seqmtl.metrics import TaskMetrics
from seqmtl.types import Field, Schema, Task

FUNNEL = Schema((Field("user", 2),), (Task("click"), Task("purchase", "click")))
WAYS = pytest.mark.parametrize("exact_rows", [2**22, 0], ids=["exact", "histogram"])


# --- TaskMetrics ---


def funnel(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and monotone labels, (rows,2)."""
    torch.manual_seed(seed)
    z = torch.randn(rows, 2)
    z[:, 1] -= 1
    click = torch.rand(rows) < z[:, 0].sigmoid()
    return z, torch.stack([click, click & (torch.rand(rows) < z[:, 1].sigmoid())], 1).float()


@WAYS
def test_names_and_values(exact_rows: int) -> None:
    z, y = funnel(2000)
    conditional = torch.randn(2000, 2)
    metric = TaskMetrics(FUNNEL, 2000, given=True, exact_rows=exact_rows)
    for rows in torch.arange(2000).split(300):
        metric.update(z[rows], y[rows], conditional[rows])
    values = metric.compute()
    assert list(values) == [
        *("auc/click", "auc/purchase", "auc_given/purchase"),
        *("logloss/click", "logloss/purchase", "pcoc/click", "pcoc/purchase"),
    ]
    clicked, logits = y[:, 0] > 0, z.double()
    expected = {
        "auc/click": roc_auc_score(y[:, 0], logits[:, 0]),
        "auc/purchase": roc_auc_score(y[:, 1], logits[:, 1]),
        "auc_given/purchase": roc_auc_score(y[clicked, 1], conditional[clicked, 1].double()),
        "logloss/click": log_loss(y[:, 0], logits[:, 0].sigmoid()),
        "logloss/purchase": log_loss(y[:, 1], logits[:, 1].sigmoid()),
        "pcoc/click": float(logits[:, 0].sigmoid().mean() / y[:, 0].mean()),
        "pcoc/purchase": float(logits[:, 1].sigmoid().mean() / y[:, 1].mean()),
    }
    tolerance = 1e-6 if exact_rows else 1e-4  # some thousand rows: a bin is wide against their distance
    assert values == pytest.approx(expected, abs=tolerance)
    assert expected["auc/purchase"] != pytest.approx(expected["auc_given/purchase"], abs=0.01)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_every_task() -> None:
    metric = TaskMetrics(FUNNEL, 50, given=True)
    metric.update(*funnel(50))
    metric.reset()
    assert set(metric.compute().values()) == {None}


def test_given_without_conditional_ranks_by_the_ratio() -> None:
    z, y = funnel(3000)
    metric = TaskMetrics(FUNNEL, 3000, given=True)
    metric.update(z, y)
    clicked, log_p = y[:, 0] > 0, torch.nn.functional.logsigmoid(z.double())
    ratio = (log_p[:, 1] - log_p[:, 0]).float()
    assert metric.compute()["auc_given/purchase"] == pytest.approx(roc_auc_score(y[clicked, 1], ratio[clicked].double()), abs=1e-12)


def test_purchase_is_over_all_impressions_not_over_clicks() -> None:
    """Entire space 1.0, clicked rows alone 0.0: the reported AUC is the former."""
    y = torch.tensor([[1.0, 1.0], [1.0, 0.0]] + [[0.0, 0.0]] * 98)
    z = torch.zeros(100, 2)
    z[:2, 1] = torch.tensor([1.0, 2.0])
    metric = TaskMetrics(FUNNEL, 100, given=True)
    metric.update(z, y)
    values = metric.compute()
    assert values["auc/purchase"] == pytest.approx(98 / 99)
    assert values["auc_given/purchase"] == 0.0


def test_without_given_only_auc_and_logloss() -> None:
    z, y = funnel(50)
    metric = TaskMetrics(FUNNEL, 50)
    metric.update(z, y, torch.full_like(z, math.nan))  # not asked for, so not looked at
    assert list(metric.compute()) == ["auc/click", "auc/purchase", "logloss/click", "logloss/purchase"]


def test_one_task_and_given_without_parents() -> None:
    z, y = funnel(50)
    metric = TaskMetrics(FUNNEL.keep(["click"]), 50, given=True)
    metric.update(z[:, :1], y[:, :1])
    values = metric.compute()
    assert list(values) == ["auc/click", "logloss/click", "pcoc/click"]
    assert values["auc/click"] == pytest.approx(roc_auc_score(y[:, 0], z[:, 0]))


@WAYS
def test_one_class_is_none_and_the_rest_stands(exact_rows: int) -> None:
    z, y = funnel(50)
    y[:, 1] = 0
    metric = TaskMetrics(FUNNEL, 50, given=True, exact_rows=exact_rows)
    metric.update(z, y)
    values = metric.compute()
    assert values["auc/purchase"] is values["auc_given/purchase"] is values["pcoc/purchase"] is None
    assert values["auc/click"] is not None
    assert values["logloss/purchase"] is not None


@WAYS
def test_nan_in_one_task_is_refused(exact_rows: int) -> None:
    z, y = funnel(50)
    z[3, 1] = math.nan
    metric = TaskMetrics(FUNNEL, 50, exact_rows=exact_rows)
    metric.update(z, y)
    with pytest.raises(SeqmtlError, match="diverged"):
        metric.compute()


def test_infinite_logits_are_no_divergence() -> None:
    metric = TaskMetrics(FUNNEL, 4, given=True)
    z = torch.tensor([[-math.inf, -math.inf], [-math.inf, 0.0], [math.inf, math.inf], [0.0, -math.inf]])
    metric.update(z, torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert metric.compute()["auc_given/purchase"] == 1.0


@WAYS
def test_moves_to_a_device_and_leaves_no_trace_in_a_checkpoint(exact_rows: int) -> None:
    model = nn.ModuleDict({"metrics": TaskMetrics(FUNNEL, 10, exact_rows=exact_rows)})
    assert not model.state_dict()
    assert not list(model.parameters())
    moved = model.to("meta")["metrics"]
    assert moved.logloss.total.device.type == "meta"
    if not exact_rows:
        assert {moved.auc.count.device.type, moved.auc.first_bin.device.type} == {"meta"}


def test_half_precision_module_keeps_the_states() -> None:
    z, y = funnel(2000)
    metric, cast = TaskMetrics(FUNNEL, 2000, given=True), TaskMetrics(FUNNEL, 2000, given=True).to(torch.bfloat16)
    for rows in torch.arange(2000).split(100):
        metric.update(z[rows], y[rows])
        cast.update(z[rows], y[rows])
    assert cast.compute() == metric.compute()


# --- Several ranks ---


def _rank(rank: int, path: str, exact_rows: int, shares: list[list[int]]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=len(shares))
    z, y = funnel(500)
    metric = TaskMetrics(FUNNEL, 500, given=True, exact_rows=exact_rows)
    for rows in torch.tensor(shares[rank], dtype=torch.int64).split(64) if shares[rank] else ():
        metric.update(z[rows], y[rows])
    torch.save([metric.compute(), metric.compute()], f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@WAYS
@pytest.mark.parametrize("cut", [173, 500], ids=["uneven", "one-rank-empty"])
def test_two_ranks_equal_one_process(tmp_path: Path, exact_rows: int, cut: int) -> None:
    z, y = funnel(500)
    alone = TaskMetrics(FUNNEL, 500, given=True, exact_rows=exact_rows)
    alone.update(z, y)
    expected = alone.compute()
    shares = [list(range(cut)), list(range(cut, 500))]
    torch.multiprocessing.spawn(_rank, (str(tmp_path), exact_rows, shares), nprocs=2)
    for rank in range(2):
        for values in torch.load(tmp_path / f"{rank}.pt"):
            assert {k: v for k, v in values.items() if "auc" in k} == {k: v for k, v in expected.items() if "auc" in k}
            assert values == pytest.approx(expected, rel=1e-12)


@pytest.mark.gpu
@WAYS
def test_on_a_gpu_equals_the_cpu(exact_rows: int) -> None:
    z, y = funnel(20_000)
    here = TaskMetrics(FUNNEL, 20_000, given=True, exact_rows=exact_rows)
    there = TaskMetrics(FUNNEL, 20_000, given=True, exact_rows=exact_rows).to("cuda")
    here.update(z, y)
    there.update(z.cuda(), y.cuda())
    assert there.compute() == pytest.approx(here.compute(), abs=1e-9)


def test_task_metrics_are_those_of_the_schema() -> None:
    """The names in metrics.json are the contract with MLflow and the tables."""
    schema = Schema((Field("a", 2),), (Task("click"), Task("purchase", "click")))
    metrics = TaskMetrics(schema, 4, given=True)
    metrics.update(torch.tensor([[0.1, -1], [2.0, 1], [-1, -2], [0.5, 0.2]]), torch.tensor([[1, 0], [1, 1], [0, 0], [0, 0]]))
    names = {f"{m}/{t}" for m in ("auc", "logloss", "pcoc") for t in ("click", "purchase")} | {"auc_given/purchase"}
    assert metrics.compute().keys() == names
