"""What `seqmtl table` and `seqmtl figure` have in common: a name, words of their own, words for every training, a look ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seqmtl import preview
from seqmtl.composing import composed_plan, unprepared
from seqmtl.errors import SeqmtlError
from seqmtl.estimate import estimate
from seqmtl.plan import Planned
from seqmtl.runs import config_hash


@dataclass(frozen=True)
class Asked:
    """What the command line says.

    Args:
        name: of the table or figure.
        dataset: empty: the default.
        seeds: empty: the default.
        own: further keys of the verb that were given.
        words: for every training.
        dry_run: look ahead only.
    """

    name: str
    dataset: str
    seeds: tuple[int, ...]
    own: Mapping[str, str]
    words: tuple[str, ...]
    dry_run: bool


def read_words(verb: str, words: Sequence[str], own: Iterable[str] = (), refused: Mapping[str, str] | None = None) -> Asked:
    """The words behind a verb.

    Args:
        verb: table or figure.
        own: further keys that the verb reads itself; `a.` stands for all below it.
        refused: {key: what to say instead}.

    Raises:
        SeqmtlError: there is no name, or a word that the verb cannot take.
    """
    flags = [word for word in words if word.startswith("-") and "=" not in word]
    plain = [word for word in words if word not in flags]
    if wrong := [flag for flag in flags if flag != "--dry-run"]:
        raise SeqmtlError(f"a {verb} takes no {wrong[0]}; it runs its seeds by itself (seqmtl {verb} --help)")
    if not plain or "=" in plain[0]:
        raise SeqmtlError(f"which {verb}? seqmtl {verb} NAME; seqmtl {verb} --help names them")
    hints = {"seed": "seeds=1,2,3", **(refused or {})}
    found, left = {"dataset": "", "seeds": "", "dry_run": "false"}, []
    for word in plain[1:]:
        key, equals, value = word.partition("=")
        if not equals and not key.startswith("~"):
            raise SeqmtlError(f"'{word}' is neither the {verb}'s name nor key=value; one {verb} at a time")
        if key in hints:
            raise SeqmtlError(f"a {verb} takes no {key}=: {hints[key]}")
        if key in found or any(key == mine or (mine.endswith(".") and key.startswith(mine)) for mine in own):
            found[key] = value
        else:
            left.append(word)
    dataset, seeds, dry_run = found.pop("dataset"), found.pop("seeds"), found.pop("dry_run")
    if dry_run not in ("true", "false"):
        raise SeqmtlError(f"dry_run must be true or false, not {dry_run!r}")
    return Asked(plain[0], dataset, _seeds(seeds), found, tuple(left), bool(flags) or dry_run == "true")


def _seeds(text: str) -> tuple[int, ...]:
    found = [seed.strip() for seed in text.strip("[]").split(",") if seed.strip()]
    if not all(seed.isascii() and seed.isdecimal() for seed in found):
        raise SeqmtlError(f"seeds must be whole numbers of at least 0: seeds=1,2,3, not seeds={text}")
    return tuple(dict.fromkeys(map(int, found)))


def foresee(
    rows: Sequence[Sequence[str]],
    of_datasets: Sequence[Sequence[str]],
    seeds: Sequence[int],
    words: Sequence[str],
    folders: Sequence[Path],
    labels: Sequence[str] = (),
    optional: Sequence[bool] = (),
) -> int:
    """Print what would be prepared and run, and how long it may take; the exit status is 1 if a job would be refused.

    Args:
        rows: overrides of each run, less its seed.
        of_datasets: overrides that name each dataset once.
        words: of the user.
        folders: conf folders, seqmtl's own first.
        labels: what each row is called; none: its jobs are named alone.
        optional: whether a row may be left out where its jobs cannot run; none: no row may.
    """
    first = {str(cfg.dataset.name) for cfg in unprepared(of_datasets, words, folders)}
    plan, jobs = composed_plan(rows, seeds, words, folders)
    names, needed = _each_once(jobs, len(seeds), labels, optional)
    for name in sorted(first):
        print(f"dataset {name} would be prepared first")
    later = [job for job in plan.jobs if id(job) in names and job.config["dataset"]["name"] in first]
    for job in later:
        perhaps = "" if id(job) in needed else " and allow it"
        print(f"{names[id(job)]}{job.label} on {job.config['dataset']['name']}: new: start, when the data are there{perhaps}")
    there = [job for job in plan.jobs if job.config["dataset"]["name"] not in first]
    now = replace(plan, jobs=[job for job in there if id(job) in names])
    now.repeated += len(there) - len(now.jobs)
    status = preview.show(now, names, {id(job) for job in now.jobs} - needed) if now.jobs else 0
    sure = [job for job in later if id(job) in needed]
    todo = [*sure, *(job for job in now.jobs if job.run is not None and not preview.finished(job))]
    if todo:
        print(f"{len(todo)} to run: {estimate(todo, Path(todo[0].config['output_dir']))}")
    if len(later) > len(sure):
        print(f"up to {len(later) - len(sure)} more, if the data allow them")
    return status


def _each_once(
    jobs: Sequence[Planned], seeds: int, labels: Sequence[str], optional: Sequence[bool]
) -> tuple[dict[int, str], set[int]]:
    """What stands before each job's label, by its id(), and the id() of those that may not be left out.

    A job that cannot run, as where its data are yet to be made, has no directory by which the plan knows it again: of those that
    are the same the first counts.

    Args:
        jobs: rows × seeds.
        seeds: how many there are.
    """
    same: dict[tuple[str, int], Planned] = {}
    of_job: dict[int, dict[str, None]] = {}
    needed: set[int] = set()
    for i, job in enumerate(jobs):
        once = same.setdefault((config_hash(job.config), job.config["seed"]), job) if job.run is None else job
        row = i // seeds
        of_job.setdefault(id(once), {}).update(dict.fromkeys(labels[row : row + 1]))
        if not (optional and optional[row]):
            needed.add(id(once))
    return {place: f"{', '.join(names)}: " if names else "" for place, names in of_job.items()}, needed


def to_mlflow(verb: str, name: str, dataset: str, files: Sequence[Path], output_dir: Path) -> None:
    """Log what a verb made as a run of the experiment `tables` or `figures`, known again by its csv: all other files tell the time.

    It is made again from its runs in a moment: where MLflow is away nothing has to be kept for later.

    Args:
        verb: table or figure.
        name: of the table or figure.
        dataset: the datasets that it was made on, with commas.
        files: that it wrote; one is a csv.
    """
    from seqmtl.mlflow_store import Store
    from seqmtl.tracking import git_commit

    numbers = next(path for path in files if path.suffix == ".csv").read_bytes()
    try:
        Store(output_dir).put_files(f"{verb}s", name, {verb: name, "dataset": dataset, "git_commit": git_commit()}, numbers, files)
    except SeqmtlError as e:
        print(f"the {verb} is not in MLflow: {e}; the same command tries again")
