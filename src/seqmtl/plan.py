"""The list of jobs that a command line asks for, each checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seqmtl.build import check_pairs, runner, stage_config, stages
from seqmtl.data.downsample import chosen_downsample
from seqmtl.data.prepared import chosen_schema, open_dataset
from seqmtl.data.storage import chosen_storage
from seqmtl.errors import SeqmtlError
from seqmtl.runner import reduced, refuse_unread
from seqmtl.runs import Run, run_directory, run_label
from seqmtl.targets import check_names

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class Planned:
    """A job of the list: its config, and its run directory or the reason why it cannot run."""

    config: dict[str, Any]
    run: Run | None = None
    error: str = ""
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return f"{run_label(self.config)}/seed={self.config['seed']}"


@dataclass
class Plan:
    """What Hydra composed; `repeated` counts the jobs that would be the same run as another one."""

    jobs: list[Planned] = field(default_factory=list)
    repeated: int = 0
    sweep: bool = False
    dry_run: bool = False

    def add(self, cfg: DictConfig, sweep: bool, overrides: Sequence[str] = ()) -> Planned:
        """Check one composed config and add it; in a sweep a bad one is kept with its reason, else raised.

        Args:
            cfg: composed.
            sweep: one of several.
            overrides: of the command line, key=value.

        Returns:
            The job; where it would be the same run as one that is there, that one.

        Raises:
            SeqmtlError: bad input, in words.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        self.sweep = sweep
        self.dry_run = self.dry_run or cfg.dry_run is not False  # what is neither true nor false is refused below
        try:
            config = OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException as e:
            raise SeqmtlError(f"the config cannot be resolved: {e}") from e
        assert isinstance(config, dict)
        planned = Planned(config)  # type: ignore[arg-type]
        self.jobs.append(planned)
        try:
            # Before the run is named by its config's hash.
            if "runner" in planned.config["model"]:
                if not sweep:
                    refuse_unread(planned.config, overrides)
                planned.config = reduced(planned.config)
                check(planned.config)
            else:
                check(planned.config)
                planned.config["dataset"]["storage"] = _storage(planned.config)
            planned.run = Run(run_directory(planned.config))
            same = next((other for other in self.jobs[:-1] if other.run == planned.run), None)
            if same is not None:
                self.jobs.pop()
                self.repeated += 1
                return same
        except SeqmtlError as e:
            planned.error = str(e)
            if not sweep:
                raise
        return planned


WHOLE_NUMBERS = {
    "seed": 0,
    "batch_size": 1,
    "trainer.max_epochs": 1,
    "trainer.patience": 1,
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
}
WHOLE_NUMBERS |= {"trainer.log_every": 1, "trainer.checkpoint_every": 1, "trainer.workers": 0}
OR_NULL = {"trainer.max_batches": 1, "trainer.threads": 1}
CHOICES = {
    "trainer.accelerator": ("cpu", "gpu"),
    "trainer.strategy": ("auto", "ddp"),
    "trainer.precision": ("32-true", "tf32", "bf16-mixed"),
    "trainer.progress": ("auto", "bar", "lines", "none"),
    "model.selection": ("sum", "each"),
    "dataset.storage": ("auto", "memory", "disk"),
}
FLAGS = ("trainer.compile", "trainer.cuda_graph")


def check(config: Mapping[str, Any]) -> None:
    """Refuse, before any data are read, what cannot run.

    Raises:
        SeqmtlError: says what to do.
    """
    if config["dry_run"] not in (True, False):
        raise SeqmtlError(f"dry_run must be true or false, not {config['dry_run']!r}")
    check_names(config)
    if runner(config) is not None:
        _check_values(config, only_given=True)
    else:
        check_stages(config)
    _, meta = open_dataset(config)
    chosen_schema(config, meta)
    chosen_downsample(config["dataset"]["downsample"], meta)


def check_stages(config: Mapping[str, Any]) -> None:
    """Refuse, for each stage, values and pairs that cannot be.

    Raises:
        SeqmtlError: says what to do.
    """
    _check_values(config)
    for name, overrides in stages(config).items():
        _check_values(stage_config(config, overrides), f"model.stages.{name}: ")
    check_pairs(config)


def _check_values(config: Mapping[str, Any], where: str = "", only_given: bool = False) -> None:
    wanted = [key for key in (*WHOLE_NUMBERS, *OR_NULL, *CHOICES, *FLAGS) if not only_given or _has(config, key)]
    for key, least in (WHOLE_NUMBERS | OR_NULL).items():
        if key not in wanted:
            continue
        value = _at(config, key)
        if value is None and key in OR_NULL:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SeqmtlError(f"{where}{key} must be an integer of at least {least}{' or null' * (key in OR_NULL)}, not {value!r}")
    if "trainer.precision" in wanted and _at(config, "trainer.precision") == "tf32" and _at(config, "trainer.accelerator") == "cpu":
        raise SeqmtlError(f"{where}trainer.precision=tf32 is of GPUs; on a CPU 32-true, or bf16-mixed")
    for key in FLAGS:
        if key in wanted and not isinstance(_at(config, key), bool):
            raise SeqmtlError(f"{where}{key} must be true or false, not {_at(config, key)!r}")
    for key, choices in CHOICES.items():
        if key in wanted and _at(config, key) not in choices:
            raise SeqmtlError(f"{where}{key} must be one of {', '.join(choices)}, not {_at(config, key)!r}")


def _storage(config: Mapping[str, Any]) -> str:
    _, meta = open_dataset(config)
    return chosen_storage(config, meta, chosen_schema(config, meta))


def _has(config: Mapping[str, Any], dotted: str) -> bool:
    group, _, key = dotted.rpartition(".")
    return key in (_at(config, group) if group else config)


def _at(node: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        node = node[part]
    return node
