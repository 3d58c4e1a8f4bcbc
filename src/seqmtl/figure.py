"""`seqmtl figure NAME [seeds=…] [dataset=…] [figure.OPTION=…] [overrides] [--dry-run]`: a figure of a paper.

The simulated data that are missing are made, the runs that are missing are run, and then the points are looked up in the runs,
written as csv, and drawn from that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from seqmtl import sweep
from seqmtl.asked import Asked, foresee, read_words, to_mlflow
from seqmtl.board import printed
from seqmtl.composing import composed, composed_plan, prepared
from seqmtl.data.meta import data_version
from seqmtl.data.prepared import open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.figures.needs import NEEDS
from seqmtl.figures.reading import read_figure, with_options
from seqmtl.figures.spec import FigureSpec, Wanted
from seqmtl.plan import Planned

OPTION = "figure."


def run(words: Sequence[str], folders: Sequence[Path]) -> int:
    """The verb.

    Args:
        words: behind it.
        folders: conf folders, seqmtl's own first.

    Returns:
        The exit status; that of a dry run is 1 if a job would be refused.

    Raises:
        SeqmtlError: bad input, a run that failed, or a figure that its runs cannot give.
    """
    asked = read_words("figure", words, own=(OPTION,), refused={"model": "its YAML names the models of its runs"})
    options = {key.removeprefix(OPTION): _value(f"{key}={text}", text) for key, text in asked.own.items()}
    spec = with_options(read_figure(asked.name, folders), options)
    spec = replace(spec, dataset=asked.dataset or spec.dataset)
    _refuse_fixed(spec, asked.words)
    if NEEDS[spec.draw].one and len(asked.seeds) > 1:
        raise SeqmtlError(f"{spec.name} shows one model of one seed: seeds={asked.seeds[0]}")
    wanted, seeds = spec.wanted(), asked.seeds or spec.seeds
    rows = [one.overrides for one in wanted]
    if not spec.trains:
        return _without_training(spec, wanted, asked, folders)
    if asked.dry_run:
        labels, optional = [one.label for one in wanted], [one.optional for one in wanted]
        return foresee(rows, rows[:1], seeds, asked.words, folders, labels, optional)
    with printed():
        from seqmtl.prepare.verb import run as prepare

        prepared(rows[:1], asked.words, folders, prepare)  # all have the same dataset
        plan, jobs = composed_plan(rows, seeds, asked.words, folders)
        kept, notes = _allowed(spec, list(zip((one for one in wanted for _ in seeds), jobs, strict=True)))
        some = {id(planned) for _, planned in kept}
        plan = replace(plan, jobs=[planned for planned in plan.jobs if id(planned) in some])
        sweep.complete(plan)
    sweep.send_rest(plan.jobs)
    _refuse_unfinished(spec, kept)
    _make(spec, kept, notes)
    return 0


def _value(word: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise SeqmtlError(f"{word}: {text!r} cannot be read") from e


def _refuse_fixed(spec: FigureSpec, words: Sequence[str]) -> None:
    """What a figure changes along an axis cannot be set for all of its runs."""
    given = {word.partition("=")[0].lstrip("+~") for word in words}
    for panel in spec.panels:
        if panel.key in given:
            raise SeqmtlError(
                f"{panel.key} is what panel {panel.name} of {spec.name} changes, so it cannot be set; leave the word out, or the"
                " panel: figure.panels=[…]"
            )


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
    if not kept:
        raise SeqmtlError(f"{spec.name} has no run that can be had: {next(iter(lacking.values()))}")
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

    kind = KINDS[spec.draw]
    made = [Made(wanted, int(planned.config["seed"]), planned.config, planned.run) for wanted, planned in runs]
    found = kind.points(made, spec)
    points = points_from_csv(Points(found.frame, (*found.notes, *notes)).to_csv())
    output_dir = Path(made[0].config["output_dir"]).absolute()
    folder = output_dir / "figures" / spec.name
    paths = drawing.write(folder, spec.name, points, kind.draw(points, spec))
    for note in points.notes:
        print(note)
    to_mlflow("figure", spec.name, str(made[0].config["dataset"]["name"]), paths, output_dir)
    print(f"the figure lies in {folder}: {', '.join(path.name for path in paths)}")
