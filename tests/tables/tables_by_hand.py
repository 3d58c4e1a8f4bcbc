"""A small table made by hand, with everything that a table may have."""

from __future__ import annotations

import numpy as np

from seqmtl.tables.content import Cell, Column, Comparison, Part, Published, Row, RunOfRow, Table

CLICK = Column("click.auc", "click", "auc", "click AUC")
PURCHASE = Column("purchase.auc", "purchase", "auc", "purchase AUC")
LOSS = Column("purchase.logloss", "purchase", "logloss", "purchase LogLoss", -1)
TRAINING_STEPS = (10, 20, 30, 40)


def cell(values: dict[int, float | None], **more: object) -> Cell:
    """Mean and deviation of the values, as collect.py has them."""
    known = [value for value in values.values() if value is not None]
    whole = bool(known) and len(known) == len(values)
    mean = float(np.mean(known)) if whole else None
    std = float(np.std(known, ddof=1)) if whole and len(known) > 1 else None
    return Cell(values=values, mean=mean, std=std, **more)  # type: ignore[arg-type]


def over_seeds(against: str, difference: float, p: float | None, note: str = "") -> Comparison:
    interval = None if p is None else (difference - 0.002, difference + 0.002)
    return Comparison(against, difference, interval, p, None, "paired t-test over 3 seeds", note)


def over_rows(against: str, difference: float, p: float, adjusted: float) -> Comparison:
    return Comparison(
        against,
        difference,
        (difference - 0.001, difference + 0.001),
        p,
        adjusted,
        "DeLong clustered by user (Obuchowski), 4,321 users",
    )


def runs(label: str, states: dict[int, tuple[str, str]]) -> tuple[RunOfRow, ...]:
    return tuple(
        RunOfRow(
            seed,
            f"outputs/aliccp_sim/{label.lower()}-bce-0a1b2c3d/seed={seed}",
            state,
            why,
            f"{seed:032x}" if state == "finished" else "",
        )
        for seed, (state, why) in states.items()
    )


DONE = dict.fromkeys((1, 2, 3), ("finished", ""))


def config(model: str, **sizes: object) -> dict[str, object]:
    return {
        "model": {"name": model, "dim": 5, "trunk": sizes},
        "optimizer": {"lr": 0.001},
        "batch_size": 2000,
        "loss": {"name": "bce"},
    }


def reliability(scale: float) -> dict[str, list[list[float]]]:
    rates = [0.004 * 1.45**i for i in range(10)]
    return {
        "click": [[rate * scale, rate, 1000] for rate in rates],
        "purchase": [[rate * scale / 20, rate / 20 if i else 0.0, 1000] for i, rate in enumerate(rates)],
    }


def training(best: float) -> dict[str, dict[int, list[list[float]]]]:
    curve = [[step, best - 0.05 / (i + 1)] for i, step in enumerate(TRAINING_STEPS)]
    return {
        "train/loss": {seed: [[step, 0.4 / step**0.2 + seed / 1000] for step in TRAINING_STEPS] for seed in (1, 2, 3)},
        "val/auc/click": {seed: [[step, value + seed / 1000] for step, value in curve] for seed in (1, 2, 3)},
    }


def _public() -> Part:
    rows = (
        Row(
            "LightGBM",
            overrides=("model=lightgbm",),
            model="lightgbm",
            loss="bce",
            config_hash="11111111",
            config={"model": {"name": "lightgbm"}, "batch_size": 2000},
            cells={
                "click.auc": cell(
                    {1: 0.584, 2: 0.584, 3: 0.584},
                    published=Published(0.5837, 0.0005),
                    rows_test=over_rows("MMoE", -0.0217, 1e-9, 3e-9),
                ),
                "purchase.auc": cell(
                    {1: 0.59, 2: 0.591, 3: 0.589},
                    published=Published(0.587, 0.0038),
                    rows_test=over_rows("AITM", -0.0617, 0.00001, 0.00003),
                ),
                "purchase.logloss": cell({1: 0.00191, 2: 0.00192, 3: 0.00193}),
            },
            runs=runs("LightGBM", DONE),
            efficiency={"epoch_seconds": 2.5, "test_rows_per_second": 812345.0},
            reliability=reliability(1.1),
        ),
        Row(
            "MMoE",
            overrides=("model=mmoe",),
            model="mmoe",
            loss="bce",
            config_hash="22222222",
            config=config("mmoe", experts=4),
            cells={
                "click.auc": cell(
                    {1: 0.6051, 2: 0.606, 3: 0.6061},
                    gain=0.0217333,
                    place=1,
                    published=Published(0.6047, 0.0017),
                    rows_test=over_rows("AITM", 0.0011, 0.04, 0.12),
                ),
                "purchase.auc": cell(
                    {1: 0.64, 2: 0.642, 3: 0.644},
                    gain=0.052,
                    place=2,
                    published=Published(0.642, 0.0031),
                    rows_test=over_rows("AITM", -0.0097, 0.03, 0.06),
                ),
                "purchase.logloss": cell({1: 0.0018, 2: 0.00181, 3: 0.00179}, place=2),
            },
            runs=runs("MMoE", DONE),
            efficiency={"params": 483626.0, "params_mb": 1.84, "epoch_seconds": 12.25, "test_rows_per_second": 40123.0},
            reliability=reliability(0.95),
            training=training(0.61),
        ),
        Row(
            "w/o_AIT [R]",
            overrides=("model=aitm", "model.trunk.transfer=false"),
            model="aitm",
            loss="bce",
            config_hash="33333333",
            config=config("aitm", transfer=False),
            cells={
                "click.auc": cell({1: 0.6, 2: 0.602}, gain=0.017, published=Published(0.6049, 0.002)),
                "purchase.logloss": cell({1: None, 2: 0.0018}),
            },
            runs=runs("AITM", {**DONE, 3: ("failed", "the loss is NaN at step 12 <&|_%>\nTraceback …")}),
            efficiency={"params": 21000.0, "params_mb": 0.08, "epoch_seconds": 9.0, "test_rows_per_second": 51000.0},
            reliability=reliability(1.0),
            training=training(0.6),
        ),
        Row(
            "AITM",
            ours=True,
            overrides=("model=aitm",),
            model="aitm",
            loss="calibrated",
            config_hash="44444444",
            config=config("aitm", transfer=True),
            cells={
                "click.auc": cell(
                    {1: 0.604, 2: 0.605, 3: 0.6049},
                    gain=0.0206333,
                    place=2,
                    published=Published(0.6043, 0.0016),
                    seeds_test=over_seeds("MMoE", -0.0011, 0.03),
                    rows_test=over_rows("MMoE", -0.0011, 0.04, 0.12),
                ),
                "purchase.auc": cell(
                    {1: 0.651, 2: 0.652, 3: 0.6521},
                    gain=0.0617,
                    place=1,
                    published=Published(0.6525, 0.0024, "**"),
                    seeds_test=over_seeds("MMoE", 0.0097, 0.004),
                    rows_test=over_rows("MMoE", 0.0097, 0.03, 0.06),
                ),
                "purchase.logloss": cell({1: 0.00177, 2: 0.00178, 3: 0.00179}, place=1, seeds_test=over_seeds("MMoE", -2e-5, 0.03)),
            },
            runs=runs("AITM", DONE),
            efficiency={"params": 22050.0, "params_mb": 0.084, "epoch_seconds": 10.5, "test_rows_per_second": 47000.0},
            reliability=reliability(1.0),
            training=training(0.606),
        ),
    )
    return Part(
        name="public",
        dataset="aliccp_sim",
        data_version="9f86d081",
        simulated=True,
        rows={"train": 80000, "valid": 10000, "test": 10000},
        positives={
            "train": {"click": 3112, "purchase": 160},
            "valid": {"click": 389, "purchase": 20},
            "test": {"click": 389, "purchase": 2},
        },
        columns=(CLICK, PURCHASE, LOSS),
        table_rows=rows,
        gain_over="LightGBM",
        gain_kind="absolute",
        oracle={"click.auc": 0.632, "purchase.auc": None, "purchase.logloss": 0.00171},
        comparable=False,
        remarks=("Ours are simulated: 100,000 rows in place of 85 million, with 1 % of the fields & none of the users.",),
        clusters="4,321 users (field 101)",
    )


def _real() -> Part:
    """Two seeds, nothing of AITM."""
    refused = dict.fromkeys((1, 2), ("refused", "model=aitm needs a task with a parent"))
    few = over_seeds("MMoE", -0.01, 0.001, "")
    rows = (
        Row(
            "MMoE",
            model="mmoe",
            loss="bce",
            config_hash="55555555",
            cells={"click.auc": cell({1: 0.7, 2: 0.71}, place=1, published=Published(0.7))},
            runs=runs("MMoE", {1: DONE[1], 2: DONE[2]}),
        ),
        Row(
            "PLE",
            model="ple",
            loss="bce",
            config_hash="66666666",
            cells={"click.auc": cell({1: 0.69, 2: 0.7}, gain=-0.0141844, place=2, seeds_test=few)},
            runs=runs("PLE", {1: DONE[1], 2: DONE[2]}),
        ),
        Row("AITM", ours=True, cells={"click.auc": Cell(published=Published(0.71))}, runs=runs("AITM", refused)),
        Row("DeepFM", cells={"click.auc": Cell(published=Published(0.65))}),
    )
    return Part(
        name="real",
        dataset="kuairand",
        data_version="abc",
        simulated=False,
        rows={"test": 2000},
        positives={"test": {"click": 700}},
        columns=(CLICK,),
        table_rows=rows,
        gain_over="MMoE",
        gain_kind="relative",
        comparable=True,
    )


def small_table() -> Table:
    """Two parts, four rows each, three seeds and two; a failed seed, refused runs, an undefined cell, an oracle, tests."""
    return Table(
        name="aitm_table2",
        title="AITM (KDD 2021), Table 2",
        paper="aitm",
        where="Table 2",
        about="AUC of models on <Ali-CCP> & others, stars by a paired t-test.",
        seeds=(1, 2, 3),
        command="seqmtl table aitm_table2 dataset=aliccp_sim seeds=1,2,3",
        made="2025-01-02T03:04:05+00:00",
        versions={"seqmtl": "0.1.0", "Python": "3.11.9", "torch": "2.13.0"},
        git_commit="7c924e8",
        machine="2 cores, no accelerator",
        parts=(_public(), _real()),
    )
