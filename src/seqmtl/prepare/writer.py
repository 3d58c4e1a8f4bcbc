"""Writes a prepared dataset: Parquet shards, histories, the truth of a simulation, meta.json last. docs/datasets.md has the layout.

Unusual: columns are byte-stream-split instead of dictionary-encoded: shards of ids are a fifth smaller so, and three times faster
to write and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmtl.data.meta import OUTCOMES, SPLITS, Meta
from seqmtl.disk import write_file
from seqmtl.errors import SeqmtlError
from seqmtl.paths import file_name
from seqmtl.prepare.checksum import column_types, dataset_checksum, shard_hash
from seqmtl.prepare.growing import HistoryFile, TruthFile, parquet_bytes, whole

Columns = Mapping[str, NDArray[Any]]


class DatasetWriter:
    """Takes rows split by split and writes them as shards into `directory`, which the caller swaps into place.

    Args:
        fields: names of the fields, in order.
        parents: the parent of each task, in the order of the tasks.
        options: the resolved `dataset.prepare`, kept in meta.json.
        rows_per_shard: the last shard of a split is shorter.
        histories: the field that the ids of each history are of.
        bags: names of multi-valued fields; their ids, ends and lengths are given as those of a history.

    Raises:
        SeqmtlError: a name leads elsewhere, a field is an outcome or a label, a history is of no field; the disk refuses.
    """

    def __init__(
        self,
        directory: Path,
        fields: Sequence[str],
        parents: Mapping[str, str | None],
        options: Mapping[str, Any] | None = None,
        rows_per_shard: int = 1_000_000,
        histories: Mapping[str, str] | None = None,
        bags: Sequence[str] = (),
    ) -> None:
        for name in (*fields, *parents, *(histories or ()), *bags):
            file_name(name, "the name of a field, task, history or bag")
        outcomes = sorted((OUTCOMES | set(parents)) & set(fields))
        if outcomes:
            raise SeqmtlError(f"{', '.join(outcomes)} happens after the impression or is a label: it must not be a field")
        if rows_per_shard < 1:
            raise SeqmtlError(f"rows_per_shard must be above 0, not {rows_per_shard}")
        histories = dict(histories or {})
        for name, field in histories.items():
            if field not in fields:
                raise SeqmtlError(f"history '{name}' is made of '{field}', which is none of the fields {', '.join(fields)}")
        names = [*fields, *parents, *(f"{name}_{what}" for name in (*histories, *bags) for what in ("end", "len"))]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SeqmtlError(f"two columns of the shards would be named {', '.join(twice)}; rename a field, history or bag")
        self.directory = directory
        self.parents = dict(parents)
        self.options = None if options is None else dict(options)
        self.rows_per_shard = rows_per_shard
        self._types = column_types(fields, parents, (*histories, *bags))
        self._highest = dict.fromkeys(fields, 0)
        self._rows = dict.fromkeys(SPLITS, 0)
        self._positives = {split: dict.fromkeys(parents, 0) for split in SPLITS}
        self._waiting: dict[str, list[dict[str, NDArray[Any]]]] = {split: [] for split in SPLITS}
        self._n_waiting = dict.fromkeys(SPLITS, 0)
        self._shards: dict[str, dict[str, int]] = {}
        self._hashes: dict[str, str] = {}
        self._histories = {name: HistoryFile(directory / "histories", name, field) for name, field in histories.items()}
        self._histories |= {name: HistoryFile(directory / "bags", name, name) for name in bags}
        self._bags = tuple(bags)
        self._truth: dict[str, TruthFile] = {}

    def add(self, split: str, columns: Columns, truth: Columns | None = None) -> None:
        """Appends rows; full shards are written at once.

        Args:
            columns: one array per field and task, `_row`, and `<name>_end` and `<name>_len` of each history.
            truth: of a simulation: the probability of each task for these rows.
        """
        rows = len(columns["_row"])
        if not rows:
            return
        chunk = {name: whole(columns[name], kind, f"column {name} in split {split}") for name, kind in self._types.items()}
        lengths = {name: len(values) for name, values in chunk.items()}
        if set(lengths.values()) != {rows}:
            raise SeqmtlError(f"columns of unequal length in split {split}: {lengths}")
        for name, highest in self._highest.items():
            if chunk[name].min() < 0:
                raise SeqmtlError(f"field {name} has a negative id ({chunk[name].min()}) in split {split}")
            self._highest[name] = max(highest, int(chunk[name].max()))
        for task in self.parents:
            if not np.isin(chunk[task], (0, 1)).all():
                raise SeqmtlError(f"label {task} has values other than 0 and 1 in split {split}")
            self._positives[split][task] += int(chunk[task].sum())
        for name, history in self._histories.items():
            history.seen(split, chunk[f"{name}_end"], chunk[f"{name}_len"])
        if truth is not None:
            if split not in self._truth:
                self._truth[split] = TruthFile(self.directory / "oracle" / f"{split}.parquet", list(self.parents))
            self._truth[split].add(chunk["_row"], truth)
        self._rows[split] += rows
        self._waiting[split].append(chunk)
        self._n_waiting[split] += rows
        while self._n_waiting[split] >= self.rows_per_shard:
            self._flush(split, self.rows_per_shard)

    def history(self, name: str, ids: NDArray[Any]) -> None:
        """Appends ids, as they are numbered in the shards, to a history (user by user, oldest first) or a multi-valued field."""
        self._histories[name].add(ids)

    def finish(
        self,
        sizes: Mapping[str, int],
        sources: Mapping[str, dict[str, Any]],
        dropped: Mapping[str, int] | None = None,
        fixed: Mapping[str, int] | None = None,
        statistics: Mapping[str, Any] | None = None,
    ) -> Meta:
        """Writes what is left and meta.json.

        Args:
            sizes: number of ids of each field, 0 included, and of each multi-valued one.
            sources: sha256 and bytes of each raw file.
            dropped: raw rows left out, by reason; `fixed`: labels changed, by reason.
            statistics: what else is worth knowing of the rows; the lengths of the histories are added.
        """
        for split in SPLITS:
            if not self._rows[split]:
                raise SeqmtlError(
                    f"the {split} split would have no rows (train {self._rows['train']}, valid {self._rows['valid']},"
                    f" test {self._rows['test']}; left out: {dict(dropped or {})}); give more raw rows or another share"
                )
            self._flush(split, self._n_waiting[split])
        for name, highest in self._highest.items():
            if highest >= sizes[name]:
                raise SeqmtlError(f"field {name} has id {highest}, but only {sizes[name]} ids")
        for truth in self._truth.values():
            truth.finish()
        lengths: dict[str, Any] = {}
        for name, history in self._histories.items():
            path = f"{'bags' if name in self._bags else 'histories'}/{name}.npy"
            self._shards[path], self._hashes[path] = history.finish(sizes[history.field])
            lengths[name] = history.lengths()
        meta = Meta(
            fields={name: int(sizes[name]) for name in self._highest},
            parents=self.parents,
            rows=self._rows,
            positives=self._positives,
            histories={k: {"field": h.field, "items": h.items} for k, h in self._histories.items() if k not in self._bags},
            bags={name: {"size": int(sizes[name]), "items": self._histories[name].items} for name in self._bags},
            dropped={k: v for k, v in (dropped or {}).items() if v},
            fixed={k: v for k, v in (fixed or {}).items() if v},
            options=self.options,
            sources=dict(sources),
            shards=self._shards,
            statistics=({"history_lengths": lengths} if lengths else {}) | dict(statistics or {}),
            checksum=dataset_checksum(sizes, self.parents, self._hashes, {k: h.field for k, h in self._histories.items()}),
        )
        write_file(self.directory / "meta.json", meta.to_json().encode())
        return meta

    def _flush(self, split: str, rows: int) -> None:
        """Writes the first `rows` of the waiting rows as one shard."""
        if not rows:
            return
        head = self._taken(split, rows)
        number = sum(path.startswith(f"{split}/") for path in self._shards)
        path = f"{split}/part-{number:05d}.parquet"
        data = parquet_bytes(head)
        write_file(self.directory / path, data)
        self._shards[path] = {"rows": rows, "bytes": data.nbytes}
        self._hashes[path] = shard_hash({name: [values] for name, values in head.items()})

    def _taken(self, split: str, rows: int) -> dict[str, NDArray[Any]]:
        """The first `rows` of the waiting rows, which wait no longer: no more than these are in memory twice."""
        waiting, parts, n = self._waiting[split], [], 0
        while n < rows:
            chunk = waiting.pop(0)
            here = len(chunk["_row"])
            if n + here > rows:
                waiting.insert(0, {name: values[rows - n :].copy() for name, values in chunk.items()})
                chunk = {name: values[: rows - n] for name, values in chunk.items()}
            parts.append(chunk)
            n += here
        self._n_waiting[split] -= rows
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in self._types}
