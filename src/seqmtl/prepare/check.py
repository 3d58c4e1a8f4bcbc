"""`seqmtl prepare dataset=NAME check=true`: everything that is wrong with a dataset, whoever wrote it. Changes nothing.

Unusual: it goes on after what it finds, as far as that leaves something to look at, and says all of it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.data.meta import SPLITS, Meta
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.errors import SeqmtlError
from seqmtl.prepare.check_files import check_files
from seqmtl.prepare.check_findings import Findings
from seqmtl.prepare.check_histories import check_histories
from seqmtl.prepare.check_meta import check_meta
from seqmtl.prepare.check_row_numbers import RowNumbers
from seqmtl.prepare.check_rows import Counted, SplitCheck
from seqmtl.prepare.checksum import dataset_checksum
from seqmtl.prepare.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

NOT_SAID: dict[str, Any] = {"histories": {}, "bags": {}, "main_history": None}  # in a dataset's YAML: train.yaml's defaults


def check(console: Console, dataset: Mapping[str, Any], directory: Path) -> str:
    """Prints what is wrong with `directory`, and what was counted; the last line in words.

    Args:
        dataset: the resolved config of it.

    Raises:
        SeqmtlError: something is wrong, or there is nothing.
    """
    if not directory.is_dir():
        raise SeqmtlError(f"there is no {directory}, so there is nothing to check.\n{str(dataset['about']).strip()}")
    findings = Findings()
    meta = check_meta(directory, findings)
    if meta is not None:
        counted = _data(console, directory, meta, findings)
        if not findings.errors:
            _config(dataset, directory, meta, findings)
        _print_counts(console, dataset["name"], meta, counted)
    findings.print(console)
    if len(findings):
        unseen = "" if meta is not None else "; the shards were not looked at, as meta.json does not say what they hold"
        things = "1 thing is" if len(findings) == 1 else f"{len(findings)} things are"
        raise SeqmtlError(f"{things} wrong with {directory}{unseen}")
    return f"{directory} is a valid dataset"


def _data(console: Console, directory: Path, meta: Meta, findings: Findings) -> dict[str, Counted]:
    with progress(console) as report:
        shards, whole = check_files(directory, meta, findings)
        numbers = RowNumbers(sum(shard.rows for of_split in shards.values() for shard in of_split), findings)
        counted = {}
        for split in SPLITS:
            counted[split] = SplitCheck(directory, meta, split, findings, numbers, report).run(shards[split], split in whole)
        numbers.finish(shards, report)
        hashes = check_histories(directory, meta, findings, report)
    findings.settle()
    if meta.checksum:
        for of_split in counted.values():
            hashes |= of_split.hashes
        _checksum(meta, hashes, findings)
    return counted


def _checksum(meta: Meta, hashes: Mapping[str, str], findings: Findings) -> None:
    lacking = sorted(set(meta.shards) - set(hashes))
    if lacking:
        findings.error("checksum", f"cannot be told, as not all of {', '.join(lacking[:3])}{' …' * (len(lacking) > 3)} can be read")
        return
    sizes = meta.fields | {name: of["size"] for name, of in meta.bags.items()}
    sequences = {name: of["field"] for name, of in meta.histories.items()} | {name: name for name in meta.bags}
    checksum = dataset_checksum(sizes, meta.parents, hashes, sequences)
    if checksum != meta.checksum:
        findings.error("checksum", f"of the data is {checksum}, not the {meta.checksum} of meta.json: a value was changed since")


def _config(dataset: Mapping[str, Any], directory: Path, meta: Meta, findings: Findings) -> None:
    """Whether a training of this config would take the data."""
    config = {"dataset": NOT_SAID | dict(dataset), "data_dir": str(directory.parent)}
    try:
        chosen_schema(config, meta)
    except SeqmtlError as e:
        findings.error("the dataset's YAML", str(e))
    try:
        open_dataset(config)
    except SeqmtlError as e:
        findings.warn("options", str(e))


def _print_counts(console: Console, name: str, meta: Meta, counted: Mapping[str, Counted]) -> None:
    """What stands in the shards, whatever meta.json says."""
    from rich.table import Table

    table = Table(title=f"{name}, counted")
    table.add_column("")
    for split in SPLITS:
        table.add_column(split, justify="right")
    seen = [counted[split] for split in SPLITS]
    table.add_row("shards", *(f"{s.shards:,}" for s in seen))
    table.add_row("rows", *(f"{s.rows:,}" for s in seen))
    for task in meta.parents:
        table.add_row(
            task,
            *(f"{s.positives[task]:,} ({s.positives[task] / max(1, s.rows):.3%})" if task in s.positives else "" for s in seen),
        )
    for history in (*meta.histories, *meta.bags):
        table.add_row(f"{history}, mean length", *(f"{s.items.get(history, 0) / max(1, s.rows):.2f}" for s in seen))
    console.print(table)
