"""`seqmtl figure NAME [seeds=…] [dataset=…] [figure.OPTION=…] [overrides] [--dry-run]`: a figure of a paper.

The simulated data that are missing are made, the runs that are missing are run, and then the points are looked up in the runs,
written as csv, and drawn from that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seqmtl import preview, sweep
from seqmtl.composing import composed, composed_plan, prepared
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.figures.spec import FigureSpec, Wanted, figure_files, read_figure
from seqmtl.plan import Plan, Planned

DRY = ("--dry-run", "dry_run=true")
OPTION = "figure."


class Asked(NamedTuple):
    """What the words behind the verb say."""

    name: str
    seeds: tuple[int, ...]
    options: Mapping[str, Any]
    words: tuple[str, ...]
    dry_run: bool


def main(words: Sequence[str], folders: Sequence[Path]) -> int:
    """The verb.

    Args:
        words: behind it.
        folders: conf folders, seqmtl's own first.

    Returns:
        The exit status; that of a dry run is 1 if a job would be refused.

    Raises:
        SeqmtlError: bad input, a run that failed, or a figure that its runs cannot give.
    """
    if not words:
        print(_list(folders))
        return 0
    asked = read_words(words)
    spec = read_figure(asked.name, folders).with_options(asked.options)
    _refuse_fixed(spec, asked.words)
    wanted = spec.wanted()
    rows = [one.overrides for one in wanted]
    if not spec.trains:
        return _without_training(spec, wanted, asked, folders)
    if not asked.dry_run:
        from seqmtl.prepare.verb import run as prepare

        prepared(rows, asked.words, folders, prepare)
    seeds = asked.seeds or spec.seeds
    plan, jobs = composed_plan(rows, seeds, asked.words, folders)
    pairs = [(one, planned) for one, planned in zip((one for one in wanted for _ in seeds), jobs, strict=True)]
    if asked.dry_run:
        return _preview(plan)
    kept, notes = _allowed(spec, pairs)
    some = {id(planned) for _, planned in kept}
    sweep.run(Plan([planned for planned in plan.jobs if id(planned) in some], plan.repeated, sweep=True))
    _refuse_unfinished(spec, kept)
    _make(spec, kept, notes)
    return 0


def read_words(words: Sequence[str]) -> Asked:
    """The name, what is the figure's own, and the overrides.

    Raises:
        SeqmtlError: there is no name, or seeds or an option cannot be read.
    """
    name, *rest = words
    if "=" in name or name.startswith("-"):
        raise SeqmtlError(f"the name of the figure comes first: seqmtl figure NAME {name} … (seqmtl figure lists them)")
    seeds: tuple[int, ...] = ()
    options, overrides = {}, []
    for word in rest:
        key, _, value = word.partition("=")
        if word in DRY:
            continue
        if key in ("seeds", "seed"):
            seeds = _seeds(value)
        elif key.startswith(OPTION):
            try:
                options[key.removeprefix(OPTION)] = yaml.safe_load(value)
            except yaml.YAMLError as e:
                raise SeqmtlError(f"{word}: {value!r} cannot be read") from e
        elif word.startswith("-"):
            raise SeqmtlError(f"seqmtl figure has no option {word}; it has --dry-run, and overrides are key=value")
        else:
            overrides.append(word)
    return Asked(name, seeds, options, tuple(overrides), bool(set(DRY) & set(rest)))


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.strip("[]()").split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SeqmtlError(f"seeds must be whole numbers, seeds=1,2,3, not {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def _list(folders: Sequence[Path]) -> str:
    found = [read_figure(name, folders) for name in sorted(figure_files(folders))]
    width = max((len(spec.name) for spec in found), default=0)
    lines = [f"  {spec.name:<{width}}  {spec.title}" for spec in found]
    return "\n".join(["seqmtl figure NAME makes one of", "", *lines, "", "docs/figures.md tells what each shows."])


def _refuse_fixed(spec: FigureSpec, words: Sequence[str]) -> None:
    """What a figure changes along an axis cannot be set for all of its runs."""
    given = {word.partition("=")[0].lstrip("+~") for word in words}
    for panel in spec.panels:
        if panel.key in given:
            raise SeqmtlError(
                f"{panel.key} is what panel {panel.name} of {spec.name} changes, so it cannot be set; leave the word out, or the"
                " panel: figure.panels=[…]"
            )


def _preview(plan: Plan) -> int:
    """List the jobs; those whose simulated data are still to be made cannot be looked at more closely."""
    waiting = [planned for planned in plan.jobs if _to_be_made(planned)]
    for planned in waiting:
        print(f"{planned.label}: not started: start, once dataset={planned.config['dataset']['name']} is made")
    rest = [planned for planned in plan.jobs if planned not in waiting]
    status = preview.show(Plan(rest, plan.repeated, sweep=True)) if rest else 0
    if waiting:
        print(f"{len(waiting)} jobs to start after their data are made; nothing was made or run (dry_run=true)")
    return status


def _to_be_made(planned: Planned) -> bool:
    dataset = planned.config["dataset"]
    there = (Path(planned.config["data_dir"]) / str(dataset["name"]) / "meta.json").exists()
    return bool(planned.error) and not there and bool((dataset["prepare"] or {}).get("simulate"))


def _allowed(spec: FigureSpec, pairs: Sequence[tuple[Wanted, Planned]]) -> tuple[list[tuple[Wanted, Planned]], list[str]]:
    """The runs that can be had, and a note for each point that a figure may lack.

    Raises:
        SeqmtlError: one of the others is refused.
    """
    kept, lacking = [], {}
    for wanted, planned in pairs:
        if not planned.error and planned.run is not None:
            kept.append((wanted, planned))
        elif wanted.optional:
            lacking[wanted.label] = planned.error
        else:
            raise SeqmtlError(f"{spec.name} cannot have {wanted.label}: {planned.error}")
    for label, error in lacking.items():
        print(f"left out: {label}: {error}", file=sys.stderr)
    names = ", ".join(lacking)
    return kept, [f"Left out, as these data do not allow it: {names}."] if lacking else []


def _refuse_unfinished(spec: FigureSpec, kept: Sequence[tuple[Wanted, Planned]]) -> None:
    for wanted, planned in kept:
        assert planned.run is not None
        directory, meta = open_dataset(planned.config)
        state = planned.run.state(data_version(directory, meta))
        if state == "finished":
            continue
        reason = planned.error or planned.run.status().get("error") or "it left no reason"
        raise SeqmtlError(
            f"{spec.name} needs {wanted.label}, seed {planned.config['seed']}, whose run is not finished but {state}: {reason}\n"
            f"    see {planned.run.path}; the same command runs what is missing"
        )


def _without_training(spec: FigureSpec, wanted: Sequence[Wanted], asked: Asked, folders: Sequence[Path]) -> int:
    from omegaconf import OmegaConf

    configs = composed([one.overrides for one in wanted], asked.words, folders)
    if asked.dry_run:
        print(f"{spec.name} needs no run")
        return 0
    plain: list[Any] = [OmegaConf.to_container(cfg, resolve=True) for cfg in configs]
    _make(spec, [(one, Planned(config)) for one, config in zip(wanted, plain, strict=True)], [])
    return 0


def _make(spec: FigureSpec, runs: Sequence[tuple[Wanted, Planned]], notes: Sequence[str]) -> None:
    """Points, files, and what has to be known."""
    from seqmtl.figures import drawing
    from seqmtl.figures.kinds import KINDS
    from seqmtl.figures.points import Points, points_from_csv
    from seqmtl.figures.runs import Made

    if spec.draw not in KINDS:
        raise SeqmtlError(f"the figure {spec.name} says draw: {spec.draw}, which is none of {', '.join(KINDS)}")
    kind = KINDS[spec.draw]
    made = [Made(wanted, int(planned.config["seed"]), planned.config, planned.run) for wanted, planned in runs]
    found = kind.points(made, spec)
    points = points_from_csv(Points(found.frame, (*found.notes, *notes)).to_csv())
    folder = Path(made[0].config["output_dir"]).absolute() / "figures" / spec.name
    paths = drawing.write(folder, spec.name, points, kind.draw(points, spec))
    for note in points.notes:
        print(note)
    print(f"{spec.name} lies in {', '.join(map(str, paths))}")
