"""The prepared dataset that a config asks for, or what to do to get it. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqmtl.data.meta import Meta, prepare_command, read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.paths import file_name
from seqmtl.types import Field, History, Schema


def open_dataset(config: Mapping[str, Any]) -> tuple[Path, Meta]:
    """The prepared dataset of a config, its options compared with those that the config asks for.

    Raises:
        SeqmtlError: it is not prepared, or was made with other options; says what to do.
    """
    dataset = config["dataset"]
    directory = Path(config["data_dir"]).absolute() / file_name(dataset["name"], "dataset.name")
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
    """The fields, tasks and histories that a config takes from the data; `dataset.fields: null` takes all fields.

    Raises:
        SeqmtlError: the data have no such field, task or history, or what is asked of a history makes no sense.
    """
    wanted = config["dataset"]["fields"]
    for key in ("tasks", "fields"):
        value = config["dataset"][key]
        if not isinstance(value, list | tuple) and (value is not None or key == "tasks"):
            raise SeqmtlError(f"dataset.{key} must be a list: dataset.{key}=[{value}]")
    schema = meta.schema().keep(config["dataset"]["tasks"])
    histories = _histories(config["dataset"]["histories"], meta)
    main = config["dataset"]["main_history"]
    if main is not None and main not in {h.name for h in histories}:
        raise SeqmtlError(
            f"dataset.main_history={main} is none of dataset.histories ({', '.join(h.name for h in histories) or 'none'});"
            " choose another with dataset.main_history=NAME, or null"
        )
    schema = replace(schema, histories=histories, main_history=main)
    bags = _bags(config["dataset"]["bags"], meta)
    if wanted is None:
        return replace(schema, fields=schema.fields + bags)
    lacking = [name for name in wanted if str(name) not in meta.fields]
    if lacking or not wanted:
        raise SeqmtlError(
            f"dataset.fields names {', '.join(map(str, lacking)) or 'nothing'};"
            f" the data of '{config['dataset']['name']}' have the fields {', '.join(meta.fields)}"
        )
    names = {str(name) for name in wanted}
    return replace(schema, fields=tuple(f for f in schema.fields if f.name in names) + bags)


def _histories(chosen: Mapping[str, Mapping[str, Any]] | None, meta: Meta) -> tuple[History, ...]:
    """`dataset.histories`: {name: {max_len: …, sign: …, own_table: …}}, each of the field that meta.json names."""
    if not isinstance(chosen or {}, Mapping) or not all(isinstance(options, Mapping) for options in (chosen or {}).values()):
        raise SeqmtlError(f"dataset.histories must be null or {{name: {{max_len: 50}}}}, not {chosen!r}")
    histories = []
    for name, options in (chosen or {}).items():
        where = f"dataset.histories.{name}"
        if name not in meta.histories:
            raise SeqmtlError(
                f"{where}: the data have no such history (they have {', '.join(meta.histories) or 'none'});"
                f" take it out with '~{where}', or prepare the dataset again"
            )
        options = {"sign": 1, "own_table": False} | dict(options)
        max_len, sign, own_table = (options.pop(key, None) for key in ("max_len", "sign", "own_table"))
        if not isinstance(max_len, int) or isinstance(max_len, bool) or max_len < 1:
            raise SeqmtlError(f"{where}.max_len must be an integer of at least 1, not {max_len!r}")
        if options or sign not in (1, -1) or not isinstance(own_table, bool):
            raise SeqmtlError(f"{where} takes max_len, sign (1 or -1) and own_table (true or false), not {chosen[name]}")  # type: ignore[index]
        histories.append(History(name, meta.histories[name]["field"], max_len, sign, own_table))
    return tuple(histories)


def _bags(chosen: Mapping[str, int] | None, meta: Meta) -> tuple[Field, ...]:
    """`dataset.bags`: {name of a multi-valued field: the most ids that are read of it}."""
    if not isinstance(chosen or {}, Mapping):
        raise SeqmtlError(f"dataset.bags must be null or {{name: the most ids}}, not {chosen!r}")
    bags = []
    by_number = {name.replace("_", ""): name for name in meta.bags}  # YAML reads 109_14 as 10914
    for name, most in (chosen or {}).items():
        name = by_number.get(str(name), str(name))
        if name not in meta.bags:
            raise SeqmtlError(
                f"dataset.bags.{name}: the data have no such multi-valued field (they have {', '.join(meta.bags) or 'none'})"
            )
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise SeqmtlError(f"dataset.bags.{name} must be the most ids that are read, an integer of at least 1, not {most!r}")
        bags.append(Field(name, meta.bags[name]["size"], most))
    return tuple(bags)


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
