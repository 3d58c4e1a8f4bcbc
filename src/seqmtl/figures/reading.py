"""From the YAML of a figure, and options on the command line, to a FigureSpec that is checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqmtl.entries import datasets, different, files, headings, mapping, read, refuse_unknown, seeds, strings, text, truth
from seqmtl.errors import SeqmtlError
from seqmtl.figures.needs import NEEDS, check_draw, check_options
from seqmtl.figures.spec import NATURAL, FigureSpec, Panel

KNOWN = {
    *("title", "paper", "where", "about", "draw", "datasets", "seeds", "trains", "overrides", "rows", "panels", "options"),
}
KNOWN_OF_PANEL = {"title", "axis", "scale", "key", "values", "natural", "points", "optional", "tasks"}
SCALES = ("linear", "log", "categories")


def figure_files(folders: Sequence[Path]) -> dict[str, Path]:
    """{name: its YAML} in the conf folders."""
    return files("figure", folders)


def read_figure(name: str, folders: Sequence[Path]) -> FigureSpec:
    """The figure of that name.

    Raises:
        SeqmtlError: there is none, or its YAML is wrong; says where.
    """
    return read("figure", name, folders, _figure)


def with_options(spec: FigureSpec, given: Mapping[str, Any]) -> FigureSpec:
    """The figure with other options; `panels` chooses some of the panels.

    Raises:
        SeqmtlError: there is no such option or panel, or the value is of another kind than the one that it replaces.
    """
    options, panels = dict(spec.options), spec.panels
    for key, value in given.items():
        if key == "panels" and spec.panels:
            panels = _chosen(spec, value if isinstance(value, list) else [value])
            continue
        known = [*NEEDS[spec.draw].known, *(["panels"] if spec.panels else [])]
        if key not in known:
            raise SeqmtlError(f"{spec.name} has no option figure.{key}; it has {', '.join(known) or 'none'}")
        options[key] = value
    changed = replace(spec, options=options, panels=panels)
    try:
        check_options(changed, "figure.")
    except ValueError as e:
        raise SeqmtlError(str(e)) from e
    return changed


def _chosen(spec: FigureSpec, names: Sequence[Any]) -> tuple[Panel, ...]:
    unknown = [str(name) for name in names if name not in [panel.name for panel in spec.panels]]
    if unknown or not names:
        there = ", ".join(panel.name for panel in spec.panels)
        raise SeqmtlError(f"{spec.name} has no panel {', '.join(unknown)}; figure.panels chooses from {there}")
    return tuple(panel for panel in spec.panels if panel.name in names)


def _figure(name: str, content: Mapping[str, Any]) -> FigureSpec:
    refuse_unknown(name, content, KNOWN)
    rows = {label: strings(words, f"row {label}") for label, words in mapping(content["rows"], "rows").items()}
    if not rows:
        raise ValueError("it has no rows")
    of_dataset = datasets(content["datasets"])
    spec = FigureSpec(
        name=name,
        **headings(content),
        draw=text(content["draw"], "draw"),
        dataset=next(iter(of_dataset)),
        of_dataset=of_dataset,
        seeds=seeds(content.get("seeds"), (1,)),
        trains=truth(content.get("trains"), "trains", True),
        overrides=strings(content.get("overrides"), "overrides"),
        rows=rows,
        panels=tuple(_panel(key, panel) for key, panel in mapping(content.get("panels"), "panels").items()),
        options=mapping(content.get("options"), "options"),
    )
    check_draw(spec)
    return spec


def _panel(name: str, given: Mapping[str, Any]) -> Panel:
    what = f"panel {name}"
    refuse_unknown(what, given, KNOWN_OF_PANEL)
    key, natural = (text(given.get(one), f"{what}: {one}") for one in ("key", "natural"))
    points = {label: strings(words, f"{what}: {label}") for label, words in mapping(given.get("points"), f"{what}: points").items()}
    if bool(points) == bool(key):
        raise ValueError(f"{what} has either points, or a key and its values")
    scale = given.get("scale") or ("linear" if key else "categories")
    if scale not in SCALES:
        raise ValueError(f"{what}: scale must be one of {', '.join(SCALES)}, not {scale}")
    if key:
        points = {str(value): (f"{key}={value}",) for value in _values(given["values"], what, scale)}
    if natural:
        points = {NATURAL: ("dataset.downsample=null",), **points}
    return Panel(
        name=name,
        points=points,
        title=text(given.get("title"), f"{what}: title"),
        axis=text(given.get("axis"), f"{what}: axis") or key,
        scale=scale,
        key=key,
        natural=natural,
        optional=truth(given.get("optional"), f"{what}: optional"),
        tasks=different(given.get("tasks"), f"{what}: tasks"),
    )


def _values(given: Any, what: str, scale: str) -> list[float]:
    """Of a panel's key, where its points stand.

    Raises:
        ValueError: they are no different numbers, or the scale has no place for one.
    """
    values = given if isinstance(given, list) else []
    if not values or not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values):
        raise ValueError(f"{what}: values must be numbers, [1, 0.5, 1.0e-4] (YAML reads 1e-4 as text), not {given!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{what}: values must be different, not {given!r}")
    if scale == "log" and min(values) <= 0:
        raise ValueError(f"{what}: a log scale has no place for {min(values)}")
    return values
