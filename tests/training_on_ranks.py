"""Trains configs in one process or as one of several ranks, and holds what came of it against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from on_ranks import on_ranks


class Told:
    """What a tracker gets."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []

    def log(self, values: dict[str, float | None], step: int) -> None:
        self.points += [(name, step, value) for name, value in values.items() if value is not None and "second" not in name]

    def flush(self) -> None:
        pass


def train(rank: int, n: int, configs: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """Fits and tests each config, all its stages, as job.py does. Where a folder has a last.ckpt, it goes on from that."""
    from seqmtl.build import stage_config, stages
    from seqmtl.checkpoint import load_weights
    from seqmtl.data.prepared import chosen_schema, open_dataset
    from seqmtl.stage import Stage

    found = []
    for number, config in enumerate(configs):
        config["trainer"] |= {"devices": n, "strategy": "ddp" if n > 1 else "auto"}
        directory, meta = open_dataset(config)
        schema = chosen_schema(config, meta)
        told, best = Told(), None
        for name, overrides in stages(config).items():
            place = Path(folder, str(number), name)
            place.mkdir(parents=True, exist_ok=True)
            its_config = stage_config(config, overrides)
            stage = Stage(its_config, place, directory, meta, schema, rank, n, told if rank == 0 else None, f"{name}/")  # type: ignore[arg-type]
            if best is not None:
                stage.start_from(best)
            stage.fit()
            if name != "main":
                best = load_weights(place / "best.ckpt")
        metrics, logits = stage.test()
        selected = {key: (s["epoch"], s["waited"]) for key, s in stage.selection.state.items()}
        weights = {name: x.clone() for name, x in stage.lit.state_dict().items()}
        found.append({"points": told.points, "metrics": stage.best_metrics() | metrics, "logits": logits})
        found[-1] |= {"selected": selected, "weights": weights, "steps": stage.lit.global_step}
    return found


def assert_alike(mine: dict[str, Any], wanted: dict[str, Any], rank: int, what: str, by: float) -> None:
    """Of all losses and terms, of the metrics, the logits, and when training stopped; by 0: of all bits, of the weights too."""
    for key in ("selected", "steps"):
        assert mine[key] == wanted[key], (what, key)
    if rank:
        assert not mine["points"], "figures are logged by the first rank alone"
    else:
        assert [p[:2] for p in mine["points"]] == [p[:2] for p in wanted["points"]], what
        for (name, step, a), (_, _, b) in zip(mine["points"], wanted["points"], strict=True):
            assert a == pytest.approx(b, rel=by, abs=by), (what, name, step)
    assert mine["metrics"].keys() == wanted["metrics"].keys(), what
    for name, value in wanted["metrics"].items():
        assert mine["metrics"][name] == (None if value is None else pytest.approx(value, rel=by, abs=by)), (what, name)
    assert torch.allclose(mine["logits"], wanted["logits"], rtol=by, atol=by), what
    if not by:
        assert all(torch.equal(mine["weights"][name], x) for name, x in wanted["weights"].items()), what


def compare(n: int, configs: dict[str, dict[str, Any]], folder: Path, by: float = 1e-6) -> None:
    """In double precision, but for `by` above 1e-6: in single, Adam makes steps of full length of what is nothing but rounding."""
    for config in configs.values():
        config["trainer"]["precision"] = "64-true" if by <= 1e-6 else "32-true"
    expected = train(0, 1, list(configs.values()), str(folder / "one"))
    for rank, found in enumerate(on_ranks(n, train, list(configs.values()), str(folder / "many"))):
        for what, mine, wanted in zip(configs, found, expected, strict=True):
            assert_alike(mine, wanted, rank, f"{what}, rank {rank}", by)
