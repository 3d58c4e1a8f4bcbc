"""Jobs from lists of words, composed as if each had been typed behind `seqmtl`: what tables and figures are made of.

Unusual: the words of a table's YAML are a config, and may be a stranger's. What counts on the command line only (allow,
launcher.setup) is looked for in the words that the user typed, never in those.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.composition import guard
from seqmtl.data.meta import read_meta
from seqmtl.errors import SeqmtlError
from seqmtl.paths import file_name
from seqmtl.plan import Plan, Planned
from seqmtl.targets import allow, refuse_shell

if TYPE_CHECKING:
    from omegaconf import DictConfig

Words = Sequence[str]


def last_wins(words: Iterable[str]) -> list[str]:
    """The words, each key once, as it was said last: Hydra refuses a group that is chosen twice."""
    said: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        said.pop(key, None)
        said[key] = word
    return list(said.values())


def composed(rows: Iterable[Words], words: Words, folders: Sequence[Path]) -> list[DictConfig]:
    """The train config of each row.

    Args:
        rows: overrides, of a YAML.
        words: overrides that the user typed; they win.
        folders: conf folders, seqmtl's own first.

    Raises:
        SeqmtlError: Hydra refuses one, or it asks for what only the command line may.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    guard("")
    more = [f"hydra.searchpath=[{','.join(f'file://{folder.absolute()}' for folder in folders[1:])}]"] if folders[1:] else []
    made = []
    with initialize_config_dir(version_base="1.3", config_dir=str(folders[0].absolute())):
        for row in rows:
            said = last_wins([*row, *words])
            try:
                cfg = compose("train", overrides=[*said, *more])
            except (HydraException, OmegaConfBaseException) as e:
                raise SeqmtlError(f"seqmtl {' '.join(said)}: {str(e).strip()}") from e
            allow(cfg.get("allow"), words)
            refuse_shell(cfg.get("launcher", {}), words)
            made.append(cfg)
    return made


def composed_plan(rows: Sequence[Words], seeds: Sequence[int], words: Words, folders: Sequence[Path]) -> tuple[Plan, list[Planned]]:
    """The jobs of rows × seeds, checked; and the job of each row and seed in that order, where two rows may have the same one.

    A job that cannot run has its reason.

    Raises:
        SeqmtlError: as `composed`.
    """
    plan = Plan()
    jobs = []
    for cfg in composed(rows, words, folders):
        for seed in seeds:
            of_seed = copy.deepcopy(cfg)
            of_seed.seed = seed
            jobs.append(plan.add(of_seed, True, words))
    return plan, jobs


def unprepared(rows: Iterable[Words], words: Words, folders: Sequence[Path]) -> list[DictConfig]:
    """A config of each simulated dataset of the rows that is not there yet; others are left to the message of the job.

    Raises:
        SeqmtlError: as `composed`.
    """
    of_dataset = {(str(cfg.data_dir), str(cfg.dataset.name)): cfg for cfg in composed(rows, words, folders)}
    return [cfg for cfg in of_dataset.values() if cfg.dataset.prepare.get("simulate") and not _is_there(cfg)]


def prepared(rows: Iterable[Words], words: Words, folders: Sequence[Path], prepare: Callable[[DictConfig], Any]) -> None:
    """Make the simulated datasets of the rows that are not there.

    Args:
        prepare: makes the dataset of a config (prepare.verb.run).

    Raises:
        SeqmtlError: as `composed`, or one cannot be made.
    """
    from omegaconf import open_dict

    for cfg in unprepared(rows, words, folders):
        with open_dict(cfg):
            cfg.overwrite, cfg.check = False, False
        prepare(cfg)


def _is_there(cfg: DictConfig) -> bool:
    try:
        read_meta(Path(str(cfg.data_dir)) / file_name(cfg.dataset.name, "dataset.name"))
    except FileNotFoundError:
        return False
    return True
