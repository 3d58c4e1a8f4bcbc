"""Every bottom that reads histories, in a model, with any kind of histories: over conf/model/bottom/*.yaml."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_cases import CHAIN, FIELDS, LONG, READERS, D, make_batch, part
from torch import Tensor

from seqmtl.errors import SeqmtlError
from seqmtl.losses.bce import BCE
from seqmtl.models.mtl import MTLModel
from seqmtl.types import Batch, Field, History, Schema, Task


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def histories(*signs: int, own_table: bool = False, field: str = "item") -> Schema:
    made = tuple(History(f"h{i}", field, max_len=3 + i, sign=sign, own_table=own_table) for i, sign in enumerate(signs))
    return Schema(FIELDS, CHAIN.tasks, made, "h0" if len(signs) > 1 else None)


SCHEMAS = {
    "one": histories(1),
    "one negative": histories(-1),
    "only positive": histories(1, 1),
    "only negative": histories(-1, -1),
    "five": histories(1, -1, 1, -1, 1),
    "own tables": histories(1, -1, own_table=True),
    "of another field": histories(1, -1, field="place"),
    "one task": replace(histories(1, -1), tasks=(Task("click"),)),
    "with a bag": replace(histories(1, -1), fields=(*FIELDS, Field("tags", 9, bag=2))),
}


def model_of(name: str, schema: Schema) -> MTLModel:
    return MTLModel(
        schema,
        D,
        bottom=part("bottom", name),
        trunk=part("trunk", "towers", dims=[16, 8], dropout=0.0),
        head=part("head", "linear"),
        embedding_bound=0.3,
    )


def batch_of(schema: Schema, rows: int = 16, seed: int = 0) -> Batch:
    fields = tuple(f for f in schema.fields if not f.bag)
    batch = make_batch(replace(schema, fields=fields), rows, seed)
    for h in schema.histories:
        batch.past[h.name] %= next(f.size for f in fields if f.name == h.field)
    for bag in schema.bags:
        batch.past[bag.name] = torch.randint(0, bag.size, (rows, bag.bag), generator=torch.Generator().manual_seed(seed))
        batch.past_len[bag.name] = torch.full((rows,), bag.bag)
    return batch


def loss_of(model: MTLModel, batch: Batch) -> Tensor:
    output = model(batch)
    more = [value for key, value in output.extras.items() if key.startswith("loss_")]
    return BCE(model.schema)(output, batch.y).sum() + sum(more)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_any_histories_and_tasks(name: str, kind: str) -> None:
    schema = SCHEMAS[kind]
    if name == "dfn" and all(h.sign < 0 for h in schema.histories):
        with pytest.raises(SeqmtlError, match="histories of positive feedback"):
            model_of(name, schema)
        return
    model, batch = model_of(name, schema), batch_of(schema)
    # What adds nothing at first is moved, as after some steps.
    for parameter in model.bottom.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    loss_of(model, batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    own = model.own_embedding
    assert (own is not None) is any(h.own_table for h in schema.histories)
    if own is not None:
        for history in model.bottom.histories:
            n = batch.past_len[history]
            used = {int(i) for ids, length in zip(batch.past[history], n, strict=True) for i in ids[:length]}
            start, size = own.offset[history], schema.fields[schema.field_names.index("item")].size
            reached = own.weight.grad[start : start + size].any(1).nonzero().squeeze(1).tolist()
            assert set(reached) == used


@pytest.mark.parametrize("name", READERS)
def test_no_parameter_is_dead(name: str) -> None:
    model = model_of(name, LONG).double()  # in which noise is not taken for a gradient
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of(model, batch_of(LONG, 64, seed=9)).backward()
    optimizer.step()
    optimizer.zero_grad()
    for seed in range(3):
        loss_of(model, batch_of(LONG, 64, seed)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        gradient = parameter.grad if parameter.ndim == 3 else parameter.grad.unsqueeze(0)
        assert gradient.abs().flatten(1).sum(1).gt(1e-13).all(), parameter_name


@pytest.mark.parametrize("name", READERS)
def test_histories_alone_are_learnt_by_heart(name: str) -> None:
    """Fields that say nothing: only what is read of the histories tells rows apart."""
    model, batch = model_of(name, LONG), batch_of(LONG, 12, seed=5)
    batch.fields.fill_(1)
    for history in LONG.history_names:  # nobody's is empty, so that no two rows are equal
        batch.past_len[history].clamp_(min=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1:
            break
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", READERS)
def test_bfloat16_is_finite_and_near(name: str) -> None:
    model = model_of(name, LONG)
    for table in (model.embedding, model.own_embedding):
        if table is not None:
            table.weight.data.normal_(std=0.5)  # at their first size histories would hardly show
    batch = batch_of(LONG)
    exact = model.eval()(batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
        loss = loss_of(model.train(), batch)
    loss.backward()
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, exact, rtol=0.02, atol=0.02)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
