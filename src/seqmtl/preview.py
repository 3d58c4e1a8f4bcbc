"""`dry_run=true`: what a command would do with each of its jobs. Nothing is run, nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from seqmtl.build import runner, stages
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.plan import Plan, Planned
from seqmtl.plural import plural
from seqmtl.runs import Run


def show(plan: Plan, before: Mapping[int, str] | None = None, optional: Collection[int] = ()) -> int:
    """Print label, state, consequence and directory of each job; the exit status is 1 if one would be refused.

    Args:
        before: what stands before the label of a job, by its id().
        optional: the id() of each job that would be left out, not refused, if it cannot run; but one job must be left.
    """
    verdicts: Counter[str] = Counter()
    for planned in plan.jobs:
        state, verdict, why = _foresee(planned, plan.sweep)
        if verdict == "refused" and planned.error and id(planned) in optional:
            verdict = "leave out"
        verdicts[verdict] += 1
        print(f"{(before or {}).get(id(planned), '')}{planned.label}: {state}: {verdict}{f', {why}' if why else ''}")
        if planned.run is not None:
            print(f"    {planned.run.path}")
    more = f"; {plan.repeated} left out, the same as one of these" if plan.repeated else ""
    counts = ", ".join(f"{n} to {verdict}" if verdict != "refused" else f"{n} refused" for verdict, n in verdicts.items())
    print(f"{plural(len(plan.jobs), 'job')}: {counts}{more}; nothing was run (dry_run=true)")
    return 1 if verdicts["refused"] or set(verdicts) == {"leave out"} else 0


def finished(planned: Planned) -> bool:
    """Whether nothing is left of a job that can run."""
    return planned.run is not None and planned.run.finished(data_version(*open_dataset(planned.config)))


def _foresee(planned: Planned, sweep: bool) -> tuple[str, str, str]:
    """(state, skip | wait | go on | start | start anew | refused, more words)."""
    run = planned.run
    if planned.error or run is None:
        return "cannot run", "refused", planned.error
    directory, meta = open_dataset(planned.config)
    state = run.state(data_version(directory, meta))
    if state == "finished":
        return state, "skip", ""
    if state == "running":
        return state, "wait" if sweep else "refused", f"held by {run.held() or 'another process'}"
    if state == "interrupted":
        return state, "go on", _position(planned.config, run)
    if run.leftovers():
        others = "" if state == "failed" else "its files are of other data or damaged; "
        return state, "start anew", f"{others}what is there moves to {run.next_attempt().name}"
    return state, "start", ""


def _position(config: dict[str, Any], run: Run) -> str:
    """Where a run that was cut off goes on."""
    if runner(config) is not None:
        done = sorted(path.name.removeprefix("best.").removesuffix(".txt") for path in run.path.glob("best.*.txt"))
        return f"after {', '.join(done)}" if done else "from the beginning"
    *earlier, last = stages(config)
    open_stages = [name for name in earlier if not (run.path / name / "fitted.json").exists()]
    stage = open_stages[0] if open_stages else last
    checkpoint = (run.path / stage if open_stages else run.path) / "last.ckpt"
    of_stage = f"stage {stage}, " if earlier else ""
    return of_stage + (f"after {_epoch_and_batch(checkpoint)}" if checkpoint.exists() else "from the beginning")


def _epoch_and_batch(checkpoint: Path) -> str:
    import torch

    try:
        content = torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
        batch = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
        return f"epoch {content['epoch'] + 1} batch {batch}"
    except Exception:  # torch raises many kinds for a damaged file
        return f"the last checkpoint, which cannot be read: {checkpoint.name}"
