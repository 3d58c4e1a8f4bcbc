"""What came of the kills: runs and their points in MLflow beside those of a command that nobody disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TIMES = {"epoch_seconds", "train_rows_per_second", "test_seconds"}  # no two runs have the same; a resumed epoch has none


@dataclass
class Found:
    """What came of it."""

    kills: int = 0
    jobs: int = 0
    equal: int = 0
    anew: int = 0  # started anew where it could have gone on
    mlflow: int = 0  # runs in MLflow that are finished
    cut: int = 0  # runs in MLflow of a start that was killed before its first checkpoint
    points: int = 0  # missing, twice or other
    orphans: int = 0
    left: int = 0  # temporary or half-written files
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.equal == self.mlflow == self.jobs > 0 and not (self.anew or self.points or self.orphans or self.left)


def compare(calm: Path, rough: Path, found: Found) -> None:
    runs = [path.parent.relative_to(calm) for path in sorted(calm.glob("*/*/*/metrics.json"))]
    found.jobs += len(runs)
    for run in runs:
        same = [_bytes(calm / run / name) == _bytes(rough / run / name) for name in ("metrics.json", "test_logits.npy")]
        found.equal += all(same)
        found.anew += any((rough / run).glob("attempt-*"))
    for path in rough.rglob("*"):
        half = path.suffix == ".ckpt" and not _whole(path)
        found.left += half or path.name.endswith((".tmp", "-journal", ".damaged.ckpt")) or path.name.startswith(".mlflow.db.")
    calm_points, rough_points = _points(calm)[0], _points(rough)
    found.mlflow += sum(len(points) == 1 for points in rough_points[0].values())
    found.cut += rough_points[1]
    for name, points in calm_points.items():
        killed = rough_points[0].get(name, [{}])[0]
        found.points += sum(points[0].get(key) != killed.get(key) for key in points[0].keys() | killed.keys())


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _whole(path: Path) -> bool:
    from seqmtl.checkpoint import DamagedError, read_checkpoint

    try:
        read_checkpoint(path)
    except DamagedError:
        return False
    return True


Points = dict[str, list[tuple[int, float]]]


def _points(output: Path) -> tuple[dict[str, list[Points]], int]:
    """{name of a run: its points, for each run of that name that is finished}, and how many were cut off for good."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    finished: dict[str, list[Points]] = {}
    for run in runs:
        if run.info.status != "KILLED":  # RUNNING is none that a job may leave: it has no points of its end
            keys = run.data.metrics.keys() - TIMES
            histories = {
                key: client.get_metric_history(run.info.run_id, key) for key in keys if key.rpartition("/")[2] not in TIMES
            }
            points = {key: sorted((m.step, m.value) for m in history) for key, history in histories.items()}
            finished.setdefault(run.info.run_name, []).append(points)
    return finished, sum(run.info.status == "KILLED" for run in runs)
