"""Histories in the simulators: the truth is made of a user's earlier rows and of nothing else, and it matters."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from seqmtl.simulate import ecommerce, policy, tenrec
from seqmtl.simulate.policy import DECAY, GAIN, LATENT, Rows, rounds

ROWS = 16_000
MODULES: dict[str, Any] = {"tenrec": tenrec, "ecommerce": ecommerce}
Array = NDArray[Any]


class Truth:
    """A simulation, and what its truth is made of, found again from the raw rows by going through them one by one."""

    def __init__(self, name: str, raw: Path, rows: int, **knobs: Any) -> None:
        module = MODULES[name]
        given = {"relatedness": 0.5, "oracle_auc": 0.78, "history": 0.4, "zipf": 0.8, "rows_per_item": 150, "drift": 0, "seed": 0}
        given |= {"rows_per_user": 30} | knobs
        module.simulate(raw, rows=rows, **given)
        self.world = module.World(module.Options(rows, **given), list(module.RATES["default"].values()))
        self.p = pl.read_parquet(next(raw.glob("oracle_*"))).drop("_row").to_numpy()
        if name == "tenrec":
            y = pl.read_csv(raw / tenrec.FILE, infer_schema=False)
            users, items = self.world.texts["user_id"].to_list(), self.world.texts["item_id"].to_list()
            tasks = tenrec.TASKS
        else:
            y = pl.concat([pl.read_parquet(path) for path in sorted(raw.glob("log-*"))])
            users, items = (
                side.numbers()[key].tolist() for side, key in ((self.world.users, "user_id"), (self.world.items, "item_id"))
            )
            tasks = tuple(ecommerce.PARENTS)
        self.user = y["user_id"].cast(pl.Int64).replace_strict(users, range(len(users))).to_numpy()
        self.item = y["item_id"].cast(pl.Int64).replace_strict(items, range(len(items))).to_numpy()
        self.y = y.select(pl.col(tasks).cast(pl.Int8)).to_numpy()
        u, v = self.world.users.vectors[self.user], self.world.items.vectors[self.item]
        self.blocks = {"user": u, "item": v, "product": u * v}
        self.time: Array = np.zeros(rows)
        if name == "ecommerce":
            places = {"position": y["position"].to_numpy() - 1, "hour": y["hour"].to_numpy()}
            self.blocks["context"] = self.world.places.vectors(places)
            self.time = np.arange(rows) / (rows - 1)
        else:
            start = np.searchsorted(self.user, self.user)  # users stand in the order of their numbers
            self.time = (np.arange(rows) - start) / np.maximum(self.world.counts[self.user] - 1, 1)
        self.past = self._past(module.BEHAVIOURS, v)

    def _past(self, behaviours: Any, v: Array) -> Array:
        seen = np.zeros((len(self.world.users.weight), len(behaviours), LATENT))
        likeness = np.empty((len(v), len(behaviours) * LATENT))
        for i, (user, item) in enumerate(zip(self.user, v, strict=True)):
            h = seen[user]
            likeness[i] = (h / np.sqrt(1 + (h**2).mean(axis=1, keepdims=True)) * item).ravel()
            for b, (task, happened) in enumerate(behaviours):
                if self.y[i, task] == happened:
                    h[b] = DECAY * h[b] + GAIN * (item - self.world.policy.usual[b])
        return likeness


@pytest.mark.parametrize("name", MODULES)
def test_the_oracle_is_a_function_of_the_earlier_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Over borders of chunks too, and with a drift."""
    monkeypatch.setattr(MODULES[name], "CHUNK", 1000)
    truth = Truth(name, tmp_path, 3210, drift=0.5, rows_per_user=20)
    act = truth.world.policy
    signal = act.weights.signal(truth.blocks, truth.time) + act.past.signal({"history": truth.past}, truth.time)
    np.testing.assert_allclose(act.funnel.probabilities(signal), truth.p, rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_histories_tell_what_nothing_else_does_and_a_model_of_all_reaches_the_oracle(tmp_path: Path, name: str) -> None:
    truth = Truth(name, tmp_path, ROWS)
    rest = np.concatenate(list(truth.blocks.values()), axis=1)
    y, p = truth.y[:, 0], truth.p[:, 0]
    best = roc_auc_score(y, p)
    auc = {}
    for what, x in (("all", np.concatenate([rest, truth.past], axis=1)), ("rest", rest)):
        model = LogisticRegression(C=1.0, max_iter=500).fit(x[::2], y[::2])
        auc[what] = roc_auc_score(y[1::2], model.decision_function(x[1::2]))
    print(name, auc, best)
    assert auc["all"] == pytest.approx(best, abs=0.012)
    assert auc["rest"] < auc["all"] - 0.02
    fixed = truth.world.policy.weights.signal(truth.blocks, 0.0)
    for task in range(4):
        assert roc_auc_score(truth.y[:, task], fixed[:, task]) < roc_auc_score(truth.y[:, task], truth.p[:, task])


def test_a_task_listens_to_its_own_behaviours() -> None:
    """After one like, a click and a like of the same item are likelier, a like by more; after a skip, less likely."""
    world = tenrec.World(tenrec.Options(3000, 0.5, 0.78, 0.4, 0.8, 30, 150, 0, 0), list(tenrec.RATES["default"].values()))
    act = world.policy
    v = np.full((1, LATENT), 1.0)
    effect = {}
    for b, behaviour in enumerate(("click", "follow", "like", "share", "negative")):
        state = act.state(1)
        state[0, b] = GAIN * v
        block = {name: np.zeros((1, LATENT)) for name in tenrec.SHARES}
        signal, _ = act.play(Rows(np.zeros(1, np.int64), v, block, np.zeros(1)), np.ones((1, 4)), state)
        effect[behaviour] = dict(zip(tenrec.TASKS, signal[0], strict=True))
    assert effect["click"]["click"] > effect["like"]["click"] > 0 > effect["negative"]["click"]
    for task in ("follow", "like", "share"):
        assert effect[task][task] > effect["click"][task]
    assert len({round(effect["negative"][task], 6) for task in tenrec.TASKS}) == 4


def test_without_histories_the_past_says_nothing(tmp_path: Path) -> None:
    truth = Truth("tenrec", tmp_path, 2000, history=0, rows_per_user=20)
    signal = truth.world.policy.weights.signal(truth.blocks, 0.0)
    np.testing.assert_allclose(truth.world.policy.funnel.probabilities(signal), truth.p, rtol=1e-9)


def test_labels_of_tenrec_mostly_but_not_always_come_with_a_click(tmp_path: Path) -> None:
    tenrec.simulate(tmp_path, rows=ROWS, rows_per_user=20, rates={"click": 0.3, "follow": 0.1, "like": 0.2, "share": 0.15})
    y = pl.read_csv(tmp_path / tenrec.FILE, infer_schema=False)
    for task in tenrec.TASKS[1:]:
        stray = y.filter(pl.col(task) == "1")["click"].eq("0")
        assert stray.mean() == pytest.approx(tenrec.STRAY, abs=3 * np.sqrt(0.03 * 0.97 / len(stray)) + 0.005)
    watched = y["watching_times"].cast(pl.Int64)
    assert ((watched > 0) == (y["click"] == "1")).all()


def test_quirks_of_tenrec(tmp_path: Path) -> None:
    tenrec.simulate(tmp_path, rows=ROWS, rows_per_user=10, rows_per_item=20)
    text = (tmp_path / tenrec.FILE).read_text()
    assert text.startswith("user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age\n1,")
    y = pl.read_csv(tmp_path / tenrec.FILE, infer_schema=False).fill_null("")
    for column in ("video_category", "gender", "age"):
        assert 0 < (y[column] == "\\N").mean() < 0.05  # type: ignore[operator]
    assert 0 < (y["video_category"] == "").mean() < 0.05  # type: ignore[operator]
    user = y["user_id"].cast(pl.Int64)
    outside = user.filter(user >= 1_000_017)
    assert 0.005 < len(outside) / ROWS < 0.08
    assert outside.min() == 1_000_017
    assert user.min() == 1
    assert y.group_by("user_id").agg(pl.col("gender", "age").n_unique()).select("gender", "age").max().row(0) == (1, 1)


def test_lengths_of_histories_are_those_of_dtrn(tmp_path: Path) -> None:
    """Its Table 2: 9.98 watches and 7.34 non-watches on average, at most 50 of each."""
    ecommerce.simulate(tmp_path, rows=60_000)
    log = pl.read_parquet(tmp_path / "log-00000.parquet", columns=["user_id", "watch"])
    before = log.select(
        watch=pl.col("watch").cast(pl.Int64).cum_sum().over("user_id") - pl.col("watch"),
        non_watch=(1 - pl.col("watch")).cast(pl.Int64).cum_sum().over("user_id") - (1 - pl.col("watch")),
    )
    mean = before.select(pl.all().clip(0, 50).mean()).row(0)
    assert mean[0] == pytest.approx(9.98, rel=0.2)
    assert mean[1] == pytest.approx(7.34, rel=0.2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_rounds_keep_the_order_of_every_user(users: list[int]) -> None:
    order, bounds = rounds(np.array(users))
    assert sorted(order.tolist()) == list(range(len(users)))
    assert bounds[0] == 0
    assert bounds[-1] == len(users)
    for number, (first, last) in enumerate(pairwise(bounds)):
        rows = order[first:last].tolist()
        assert len({users[row] for row in rows}) == len(rows) > 0
        for row in rows:
            assert users[:row].count(users[row]) == number


def test_constants_of_the_past() -> None:
    assert np.hypot(policy.GAIN, policy.DECAY) == pytest.approx(1)  # so a full history has variance 1
    for module in MODULES.values():
        np.testing.assert_allclose(np.abs(module.TASTE).sum(axis=1), 1)
        assert sum(module.SHARES.values()) == pytest.approx(1)
