"""What a user does later changes nothing of earlier predictions: whole logs, converted, read and predicted by a model of histories,
then changed after some row and predicted again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
import torch
from model_cases import part

from seqmtl.data.histories import Histories
from seqmtl.data.meta import SPLITS, read_meta
from seqmtl.data.rows import Rows
from seqmtl.data.shards import Shards
from seqmtl.data.stream import Stream
from seqmtl.models.mtl import MTLModel
from seqmtl.prepare import kuairand, log, tenrec
from seqmtl.types import History

TASKS = ("click", "like")
HISTORIES = ("click", "like", "negative")
ROWS, USERS, ITEMS = 60, 4, 6


@dataclass(frozen=True)
class Row:
    """An impression; its place in the log is its time."""

    user: int
    item: int
    click: int
    like: int


def impressions(seed: int) -> list[Row]:
    rng = random.Random(seed)
    clicks = [int(rng.random() < 0.5) for _ in range(ROWS)]
    return [Row(rng.randrange(USERS), rng.randrange(ITEMS), click, click * int(rng.random() < 0.5)) for click in clicks]


def any_log(rows: list[Row], raw: Path, out: Path) -> None:
    lines = [f"{r.user},{r.item},{time},{r.click},{r.like}" for time, r in enumerate(rows)]
    (raw / "log-0.csv").write_text("\n".join(["user,item,time,click,like", *lines]) + "\n")
    histories = {"click": "click=1", "like": "like=1", "negative": "click=0"}
    log.prepare(raw, out, fields=["user", "item"], parents={"click": None, "like": "click"}, user="user", item="item",
                histories=histories, min_count=1)  # fmt: skip


def tenrec_log(rows: list[Row], raw: Path, out: Path) -> None:
    lines = [f"{r.user},{r.item},{r.click},0,{r.like},0,7,{9 * r.click},1,{r.user % 2}" for r in rows]
    header = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"
    (raw / "QK-video.csv").write_text("\n".join([header, *lines]) + "\n")
    tenrec.prepare(raw, out)


def kuairand_log(rows: list[Row], raw: Path, out: Path) -> None:
    """Two neighbours may have the same time: then neither is the other's past."""
    lines = [f"{r.user},{r.item},20220425,1400,{time // 2},{r.click},{r.like},0,0,0,0,{r.like},{9 * r.click},9000,0,0,0,0,1"
             for time, r in enumerate(rows)]  # fmt: skip
    header = (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,"
        "duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
    )
    (raw / "log_standard_1_pure.csv").write_text("\n".join([header, *lines]) + "\n")
    of_users = ("user_id", "is_lowactive_period", *kuairand.USER, *kuairand.USER_NUMBERS)
    users = [",".join([str(u), *["0"] * (len(of_users) - 1)]) for u in range(USERS)]
    (raw / "user_features_pure.csv").write_text("\n".join([",".join(of_users), *users]) + "\n")
    of_videos = (
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,"
        "music_type,tag"
    )
    videos = [f"{v},{v},NORMAL,2022-04-10,Web,0.0,8000.0,720.0,1280.0,5,9.0,3" for v in range(ITEMS)]
    (raw / "video_features_basic_pure.csv").write_text("\n".join([of_videos, *videos]) + "\n")
    kuairand.prepare(raw, out, min_count=1)


CONVERTERS = {"log": any_log, "tenrec": tenrec_log, "kuairand": kuairand_log}
Convert = Callable[[list[Row], Path, Path], None]


class TooFar(Histories):
    """Histories that reach one item too far."""

    def gather(self, rows: Rows) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        there = [len(flat) for flat in self.flat]
        return super().gather(replace(rows, end=(rows.end + 1).clip(max=there), length=rows.length + 1))


def predicted(
    convert: Convert, rows: list[Row], folder: Path, max_len: int = 50, histories: type[Histories] = Histories
) -> dict[int, torch.Tensor]:
    """{number of the row: its log-odds} of all splits, by a model whose weights depend on nothing.

    A row at a time: in a batch the last bits may depend on the others.
    """
    raw, out = folder / "raw", folder / "out"
    raw.mkdir(parents=True)
    convert(rows, raw, out)
    meta = read_meta(out)
    made = tuple(History(name, meta.histories[name]["field"], max_len, -1 if name == "negative" else 1) for name in HISTORIES)
    schema = replace(meta.schema().keep(TASKS), histories=made, main_history="click")
    torch.manual_seed(0)
    parts = (part("bottom", "dmt"), part("trunk", "towers", dims=[8], dropout=0.0), part("head", "linear"))
    model = MTLModel(schema, 4, *parts, embedding_bound=1.0).eval()
    found = {}
    for split in SPLITS:
        numbers = pl.read_parquet(sorted((out / split).glob("*.parquet")))["_row"].to_list()
        stream = Stream(Shards(out, meta, schema, split), batch_size=1, histories=histories(out, meta, schema))
        with torch.no_grad():
            found |= {number: model(batch).logits[0] for number, batch in zip(numbers, stream, strict=True)}
    assert sorted(found) == list(range(len(rows)))
    return found


def differing(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> set[int]:
    return {number for number in one if not torch.equal(one[number], other[number])}


@pytest.fixture(params=sorted(CONVERTERS))
def convert(request: pytest.FixtureRequest) -> Convert:
    return CONVERTERS[request.param]


def of_user(rows: list[Row], user: int) -> list[int]:
    return [i for i, row in enumerate(rows) if row.user == user]


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_seen_only_after_their_row(convert: Convert, tmp_path: Path, seed: int) -> None:
    rows = impressions(seed)
    before = predicted(convert, rows, tmp_path / "before")
    mine = of_user(rows, user=seed)
    first, rng = mine[len(mine) // 2], random.Random(seed)
    changed = list(rows)
    for i in mine[len(mine) // 2 :]:
        click = 1 - rows[i].click
        changed[i] = replace(rows[i], click=click, like=click * int(rng.random() < 0.5))
    found = differing(before, predicted(convert, changed, tmp_path / "after"))
    assert found
    assert all(i in mine and i > first for i in found)


@pytest.mark.parametrize("max_len", [2, 50])
def test_items_are_seen_only_from_their_row_on(convert: Convert, tmp_path: Path, max_len: int) -> None:
    rows = impressions(2)
    before = predicted(convert, rows, tmp_path / "before", max_len)
    mine = of_user(rows, user=1)
    early = [i for i in mine[: len(mine) * 6 // 10] if i < 0.7 * ROWS and rows[i].click]  # training rows, so that ids stay
    a, b = next((a, b) for a in early[len(early) // 3 :] for b in early if b > a + 1 and rows[b].item != rows[a].item)
    changed = list(rows)
    changed[a], changed[b] = replace(rows[a], item=rows[b].item), replace(rows[b], item=rows[a].item)
    found = differing(before, predicted(convert, changed, tmp_path / "after", max_len))
    assert {a, b} <= found
    assert found - {a, b}  # through histories alone
    assert all(i in mine and i >= a for i in found)


def test_a_history_that_reaches_too_far_would_be_seen(convert: Convert, tmp_path: Path) -> None:
    rows = impressions(0)
    mine = of_user(rows, user=0)
    changed = list(rows)
    for i in mine[len(mine) // 2 :]:
        changed[i] = replace(rows[i], click=1 - rows[i].click, like=0)
    before, after = (predicted(convert, r, tmp_path / name, histories=TooFar) for r, name in ((rows, "before"), (changed, "after")))
    assert any(i not in mine or i <= mine[len(mine) // 2] for i in differing(before, after))
