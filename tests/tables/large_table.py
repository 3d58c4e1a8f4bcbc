"""A table of any size, for what must stay readable or small when there is much of it."""

from __future__ import annotations

import numpy as np
from tables_by_hand import cell, config, over_rows, over_seeds, runs

from seqmtl.tables.content import Column, Part, Row, Table


def large_table(systems: int = 21, tasks: tuple[str, ...] = ("click", "like", "follow", "purchase"), seeds: int = 3) -> Table:
    """As `all_models`: AUC and LogLoss of each task, random values."""
    rng = np.random.default_rng(0)
    columns = tuple(
        Column(f"{task}.{metric}", task, metric, f"{task} {title}", better)
        for task in tasks
        for metric, title, better in (("auc", "AUC", 1), ("logloss", "LogLoss", -1))
    )
    names = [
        "LightGBM",
        "Single-Task",
        "Shared-Bottom",
        "OMoE",
        "MMoE",
        "PLE",
        "ESMM",
        "ESCM2-IPW",
        "ESCM2-DR",
        "AITM",
        "APEM",
        "MAN",
    ]
    names += ["YouTubeNet", "DIN", "DIEN", "BST", "ATRank", "DFN", "DMT", "M2M + SmallHeads", "DTRN"]
    values = {}
    for t, column in enumerate(columns):
        centre = rng.normal(size=systems) * 0.004
        base, scale = (0.72 - 0.03 * t, 1.0) if column.metric == "auc" else (0.3 / 4 ** (t // 2), -0.3 / 4 ** (t // 2))
        values[column.key] = base + scale * (centre[:, None] + rng.normal(size=(systems, seeds)) * 0.0015)
    rows = []
    for i, name in enumerate(names[:systems]):
        cells = {}
        for column in columns:
            means = values[column.key].mean(1) * column.better
            order = np.argsort(-means)
            best = names[order[0]] if order[0] != i else names[order[1]]
            gap = float((means[i] - means[order[0] if order[0] != i else order[1]]) * column.better)
            cells[column.key] = cell(
                {seed + 1: float(v) for seed, v in enumerate(values[column.key][i])},
                gain=float(means[i] / means[0] - 1) * (1 if column.better > 0 else -1) if i else None,
                place={int(order[0]): 1, int(order[1]): 2}.get(i),
                seeds_test=over_seeds(best, gap, 0.02 if abs(gap) > 0.002 else 0.3),
                rows_test=over_rows(best, gap, 0.001, 0.02 if abs(gap) > 0.004 else 0.2),
            )
        rows.append(
            Row(
                name,
                ours=name in ("AITM", "APEM", "MAN", "DTRN"),
                overrides=(f"model={name.lower()}",),
                model=name.lower(),
                loss="bce",
                config_hash=f"{i:08x}",
                config=config(name, experts=i),
                cells=cells,
                runs=runs(name, {seed + 1: ("finished", "") for seed in range(seeds)}),
                efficiency={
                    **{"params": 1e5 + 2e4 * i, "params_mb": 0.4 + 0.08 * i, "epoch_seconds": 5.0 + i, "test_seconds": 1.5},
                    **{"train_rows_per_second": 2e5 / (1 + i), "test_rows_per_second": 8e5 / (1 + i)},
                },
                reliability={t: [[r * (0.8 + i / 50), r, 900] for r in (0.001 * 1.5**k for k in range(10))] for t in tasks},
                training={
                    "train/loss": {
                        s: [[k * 10, 0.5 / (k + 1) ** 0.3 + i / 500 + rng.random() / 50] for k in range(300)] for s in (1, 2, 3)
                    },
                    **{
                        f"val/auc/{t}": {s: [[k, 0.7 - 0.1 / (k + 1) + i / 900] for k in range(5)] for s in (1, 2, 3)}
                        for t in tasks
                    },
                },
            )
        )
    part = Part(
        name="all",
        dataset="kuairand",
        data_version="0123456789abcdef",
        simulated=False,
        rows={"train": 1000000, "valid": 120000, "test": 130000},
        positives={"test": {task: 40000 // 9**i for i, task in enumerate(tasks)}},
        columns=columns,
        table_rows=tuple(rows),
        gain_over="LightGBM",
        gain_kind="relative",
        clusters="13,000 users (field 101)",
    )
    return Table(
        "all_models",
        "All models under one protocol",
        "",
        "",
        "21 systems.",
        (1, 2, 3),
        "seqmtl table all_models",
        "2025-01-02T03:04:05+00:00",
        {"seqmtl": "0.1.0"},
        "7c924e8",
        "2 cores",
        (part,),
    )
