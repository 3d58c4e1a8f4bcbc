"""The prepared dataset that a config asks for, or what to do to get it. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqmtl.data.meta import Meta, prepare_command, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.types import Schema


def open_dataset(config: Mapping[str, Any]) -> tuple[Path, Meta]:
    """The prepared dataset of a config, its options compared with those that the config asks for.

    Raises:
        SeqmtlError: it is not prepared, or was made with other options; says what to do.
    """
    dataset = config["dataset"]
    directory = Path(config["data_dir"]).absolute() / dataset["name"]
    command = prepare_command(directory)
    try:
        meta = read_meta(directory)
    except FileNotFoundError:
        raise SeqmtlError(
            f"dataset '{dataset['name']}' is not prepared: {directory}/meta.json does not exist.\n"
            f"{dataset['about'].strip()}\nThe command for this place: {command}"
        ) from None
    wanted = dataset["prepare"]
    if meta.options is not None and meta.options != wanted:
        names = flat_difference(meta.options, wanted)
        asked = " ".join(f"dataset.prepare.{k}={_get(wanted, k)}" for k in names if _get(wanted, k) is not None)
        made = ", ".join(f"{k}={_get(meta.options, k)}" for k in names)
        raise SeqmtlError(
            f"dataset '{dataset['name']}' was made with other options than this training asks for: {made}.\n"
            f"Either ask for those, or make it again:\n    {command} {asked} overwrite=true"
        )
    return directory, meta


def chosen_schema(config: Mapping[str, Any], meta: Meta) -> Schema:
    """The fields and tasks that a config takes from the data; `dataset.fields: null` takes all.

    Raises:
        SeqmtlError: the data have no such field or task.
    """
    wanted = config["dataset"]["fields"]
    for key in ("tasks", "fields"):
        if isinstance(config["dataset"][key], str):
            value = config["dataset"][key]
            raise SeqmtlError(f"dataset.{key} must be a list: dataset.{key}=[{value}]")
    schema = meta.schema().keep(config["dataset"]["tasks"])
    if wanted is None:
        return schema
    lacking = [name for name in wanted if str(name) not in meta.fields]
    if lacking or not wanted:
        raise SeqmtlError(
            f"dataset.fields names {', '.join(map(str, lacking)) or 'nothing'};"
            f" the data of '{config['dataset']['name']}' have the fields {', '.join(meta.fields)}"
        )
    names = {str(name) for name in wanted}
    return replace(schema, fields=tuple(f for f in schema.fields if f.name in names))


def flat_difference(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the leaves in which two mappings differ."""
    names: list[str] = []
    for key in sorted(a.keys() | b.keys()):
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            names += flat_difference(x, y, f"{prefix}{key}.")
        elif x != y:
            names.append(f"{prefix}{key}")
    return names


def _get(node: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
