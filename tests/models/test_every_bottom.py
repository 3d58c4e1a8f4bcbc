"""What holds for every bottom that reads histories: over conf/model/bottom/*.yaml, so that a new one is tested without a new test.

Here with vectors made by hand, in double precision; test_every_bottom_trained.py has models and batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import LONG, READERS, D, part
from torch import Tensor, nn

from seqmtl.types import Features, Schema

OPTIONS: dict[str, list[dict[str, Any]]] = {  # beside their defaults
    "atrank": [{"buckets": 0}, {"blocks": 2}],
    "bst": [{"pool": "mean"}, {"pool": "concat"}, {"positions": "concat"}, {"positions": "none"}],
    "dfn": [{"pool": "sum"}],
    "dien": [{"augru": "official"}, {"extra_sum": True}, {"auxiliary": 1.0}],
    "din": [{"softmax": False}, {"activation": "dice"}, {"scale": False}],
    "dmt": [{"positions": "none"}, {"out_projection": False}, {"blocks": 2}],
    "tim": [
        *({"empty": kind} for kind in ("zero", "null_token")),
        *({"injection": kind} for kind in ("qkv", "ffn1", "ffn2")),
        *({"positions": "learned"}, {"gamma_param": "residual"}),
    ],
}
CASES = {
    " ".join([name, *(f"{k}={v}" for k, v in options.items())]): (name, options)
    for name in READERS
    for options in [{}, *OPTIONS.get(name, [])]
}


def ordered(name: str, options: dict[str, Any]) -> bool:
    """Whether the order of the items matters."""
    if name in ("bst", "dmt"):
        return options.get("positions") != "none"
    return name == "dien" or (name == "atrank" and "buckets" not in options) or options.get("positions") == "learned"


ITEM = LONG.field_names.index("item")
# Rows: nothing at all; one item each; all full; then mixtures, each history being empty somewhere.
LENGTHS = {"click": (0, 1, 6, 0, 3, 5), "skip": (0, 1, 9, 4, 0, 2), "like": (0, 1, 4, 2, 1, 0)}
ROWS = 6


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(case: str, schema: Schema = LONG) -> nn.Module:
    """In double precision, in evaluation, and with no parameter at a value that hides something."""
    name, options = CASES[case]
    bottom: nn.Module = part("bottom", name, **options)(schema, D).double().eval()
    for parameter in bottom.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return bottom


def features(schema: Schema = LONG, lengths: dict[str, tuple[int, ...]] = LENGTHS, columns: int = 0, noise: int = 0) -> Features:
    """Embedded rows. `columns` more of padding; what stands in the padding depends on `noise`."""
    g = torch.Generator().manual_seed(1)
    table = torch.randn(30, D, generator=g, dtype=torch.float64)
    rows = len(next(iter(lengths.values()), (0,) * ROWS))
    fields = torch.randn(rows, len(schema.fields), D, generator=g, dtype=torch.float64)
    past, past_ids = {}, {}
    for history in schema.histories:
        n = torch.tensor(lengths[history.name], dtype=torch.int64)
        ids = F.pad(torch.randint(0, 30, (rows, 9), generator=g), (0, columns))
        other = torch.randint(0, 30, ids.shape, generator=torch.Generator().manual_seed(noise))
        width = max([1, *lengths[history.name]]) + columns
        mask = torch.arange(width) < n.unsqueeze(1)
        past_ids[history.name] = torch.where(mask, ids[:, :width], other[:, :width])
        items = table[past_ids[history.name]]
        past[history.name] = (torch.where(mask.unsqueeze(-1), items, items * (1 + 1000 * noise)), mask)
    lookup: Callable[[str, Tensor], Tensor] = lambda name, ids: F.embedding(ids, table)  # noqa: E731
    main = next((h for h in schema.histories if h.name == schema.main_history), schema.histories[0])
    target = fields[:, schema.field_names.index(main.field)]
    return Features(fields, lookup, target, past, past_ids, lookup)


def change(seen: Features, name: str, items: Tensor, ids: Tensor | None = None) -> Features:
    """With other items in one history."""
    mask = seen.past[name][1]
    past_ids = {**seen.past_ids, name: seen.past_ids[name] if ids is None else ids}
    return replace(seen, past={**seen.past, name: (items, mask)}, past_ids=past_ids, extras={})


def leaves(seen: Features) -> tuple[Features, dict[str, Tensor]]:
    """Whose gradients can be asked for: the fields, the target and each history's items."""
    inputs = {"fields": seen.fields.clone().requires_grad_()}
    inputs |= {name: items.clone().requires_grad_() for name, (items, _) in seen.past.items()}
    past = {name: (inputs[name], mask) for name, (_, mask) in seen.past.items()}
    return replace(seen, fields=inputs["fields"], target=inputs["fields"][:, ITEM], past=past), inputs


def row(seen: Features, i: int) -> Features:
    """One row alone, cut to its own lengths."""
    past, past_ids = {}, {}
    for name, (items, mask) in seen.past.items():
        width = max(1, int(mask[i].sum()))
        past[name] = (items[i : i + 1, :width], mask[i : i + 1, :width])
        past_ids[name] = seen.past_ids[name][i : i + 1, :width]
    assert seen.target is not None
    return replace(seen, fields=seen.fields[i : i + 1], target=seen.target[i : i + 1], past=past, past_ids=past_ids, extras={})


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_shape_and_what_it_says_of_itself(case: str) -> None:
    bottom = make(case)
    z = bottom(features())
    assert z.shape[::2] == (ROWS, bottom.width)
    assert z.shape[1] in (1, len(LONG.tasks))
    assert torch.isfinite(z).all()
    assert bottom.histories
    assert set(bottom.histories) <= set(LONG.history_names)


@pytest.mark.parametrize("case", CASES)
def test_what_stands_in_the_padding_changes_nothing(case: str) -> None:
    bottom = make(case)
    z = bottom(features())
    for noise in (1, 2):
        same(bottom(features(noise=noise)), z)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("columns", [1, 7])
def test_more_padding_changes_nothing(case: str, columns: int) -> None:
    bottom = make(case)
    same(bottom(features(columns=columns, noise=3)), bottom(features()))


@pytest.mark.parametrize("case", CASES)
def test_a_row_alone_is_the_row_in_a_batch(case: str) -> None:
    bottom, seen = make(case), features()
    z = bottom(seen)
    for i in range(ROWS):
        same(bottom(row(seen, i)), z[i : i + 1])


@pytest.mark.parametrize("case", CASES)
def test_every_item_that_it_says_to_read_matters_to_its_row_alone(case: str) -> None:
    bottom = make(case)
    seen, inputs = leaves(features())
    z = bottom(seen)
    direction = torch.randn(z.shape[1:], dtype=z.dtype)
    for i in range(ROWS):
        gradients = dict(zip(inputs, torch.autograd.grad((z[i] * direction).sum(), [*inputs.values()], allow_unused=True,
                                                         retain_graph=True), strict=True))  # fmt: skip
        assert gradients["fields"] is not None
        assert gradients["fields"][i].any(-1).all()
        for history, (_, mask) in seen.past.items():
            g = gradients[history]
            if history not in bottom.histories:
                assert g is None or not g.any()
                continue
            reached = torch.zeros_like(mask) if g is None else g.any(-1)
            mine = torch.zeros_like(mask)
            mine[i] = mask[i]
            assert torch.equal(reached, mine), history


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences_also_where_rows_are_empty(case: str) -> None:
    bottom = make(case)
    start = features()
    seen, inputs = leaves(start)
    z = bottom(seen)
    weight = torch.randn_like(z)
    gradients = torch.autograd.grad((z * weight).sum(), [*inputs.values()], allow_unused=True)
    for (history, x), gradient in zip(inputs.items(), gradients, strict=True):
        step = 1e-6 * torch.randn_like(x)
        ends = []
        for sign in (1, -1):
            moved = (x + sign * step).detach()
            if history == "fields":
                there = replace(start, fields=moved, target=moved[:, ITEM], extras={})
            else:
                there = change(start, history, moved)
            ends.append((bottom(there) * weight).sum())
        by_gradient = 0.0 if gradient is None else (gradient * step).sum().item()
        assert gradient is None or torch.isfinite(gradient).all()
        assert (ends[0] - ends[1]).item() / 2 == pytest.approx(by_gradient, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [False, True])
def test_nobody_has_a_history(case: str, training: bool) -> None:
    bottom = make(case).train(training)
    empty = dict.fromkeys(LENGTHS, (0,) * ROWS)
    seen, inputs = leaves(features(lengths=empty))
    z = bottom(seen)
    assert torch.isfinite(z).all()
    z.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in bottom.parameters() if p.grad is not None)
    assert torch.isfinite(inputs["fields"].grad).all()
    assert inputs["fields"].grad.any()
    assert all(x.grad is None or not x.grad.any() for history, x in inputs.items() if history != "fields")
    bottom.eval()
    none = bottom(features(lengths=empty))
    same(bottom(features(lengths=empty, columns=4, noise=2)), none)
    without = {name: (x[:, :0], mask[:, :0]) for name, (x, mask) in seen.past.items()}  # not even a column of padding
    same(bottom(replace(seen, past=without, past_ids={k: v[:, :0] for k, v in seen.past_ids.items()}, extras={})), none)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 4, 6, 9])
def test_rows_of_one_length(case: str, n: int) -> None:
    """Without any padding, at the longest that each history may be and below."""
    schema = replace(LONG, histories=tuple(replace(h, max_len=max(n, h.max_len)) for h in LONG.histories))
    lengths = dict.fromkeys(LENGTHS, (n,) * 3)
    bottom = make(case, schema)
    z = bottom(features(schema, lengths))
    assert torch.isfinite(z).all()
    same(bottom(features(schema, lengths, columns=2, noise=1)), z)


@pytest.mark.parametrize("case", CASES)
def test_no_rows(case: str) -> None:
    bottom = make(case)
    z = bottom(features(lengths=dict.fromkeys(LENGTHS, ())))
    assert z.shape[::2] == (0, bottom.width)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_items(case: str) -> None:
    bottom, seen = make(case), features()
    z = bottom(seen)
    for history in bottom.histories:
        items, mask = seen.past[history]
        ids = seen.past_ids[history].clone()
        turned = items.clone()
        for i, n in enumerate(mask.sum(1).tolist()):
            turned[i, :n] = items[i, :n].flip(0)
            ids[i, :n] = ids[i, :n].flip(0)
        found = bottom(change(seen, history, turned, ids))
        if ordered(*CASES[case]):
            many = mask.sum(1) > 2
            assert (found - z).abs().flatten(1).amax(1)[many].min() > 1e-6, history
        else:
            same(found, z)


def test_atrank_orders_items_only_by_how_long_ago_they_were() -> None:
    """Distances 1, 2-3, 4-7 and so on from the end are one time each."""
    bottom, seen = make("atrank"), features()
    z = bottom(seen)
    items = seen.past["skip"][0]
    swapped = items.clone()  # row 2 has 9 items: those at distance 2 and 3 stand at 7 and 6
    swapped[2, 6], swapped[2, 7] = items[2, 7], items[2, 6]
    same(bottom(change(seen, "skip", swapped)), z)
    swapped[2, 7], swapped[2, 8] = swapped[2, 8].clone(), swapped[2, 7].clone()
    assert (bottom(change(seen, "skip", swapped)) - z).abs().max() > 1e-6
