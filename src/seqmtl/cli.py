"""The entry: which verb, and errors in words. Nothing heavy is imported here."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.errors import SeqmtlError
from seqmtl.redact import hide
from seqmtl.shipped import conf_directory
from seqmtl.targets import allow, refuse_shell

if TYPE_CHECKING:
    from omegaconf import DictConfig

    Task = Callable[[DictConfig, bool, list[str]], Any]

PLAIN = ("status", "sync", "compare")  # verbs without a config
NAMED = ("table", "figure")  # verbs whose first word is the name of one
WORDS = (*NAMED, "bench")  # verbs that compose configs of their own
VERBS = ("train", "prepare", *WORDS, *PLAIN)
CONFIG_DIR = ("--config-dir", "-cd")


def take_verb(argv: list[str]) -> str:
    """Take the verb out of the command line; train where there is none. `-m` may stand anywhere.

    Raises:
        SeqmtlError: no such verb, or not in the first place.
    """
    if "COMP_LINE" in os.environ:
        return _take_verb_from_completion()
    verb = argv.pop(1) if len(argv) > 1 and argv[1] in VERBS else ""
    first = argv[1] if len(argv) > 1 else "="
    if not verb and "=" not in first and not first.startswith(("-", "~", "+")):
        raise SeqmtlError(f"no verb '{first}'; there are {', '.join(VERBS)}, and overrides are key=value (seqmtl --help)")
    if verb in (*WORDS, *PLAIN):
        return verb
    if set(VERBS) & set(argv[2:]):
        raise SeqmtlError(f"the verb comes first: seqmtl {next(v for v in VERBS if v in argv)} …")
    for flag in ("-m", "--multirun"):
        if flag in argv:
            if verb == "prepare":
                raise SeqmtlError("prepare makes one dataset at a time; leave out -m")
            argv.remove(flag)
            argv.insert(1, flag)  # Hydra takes no overrides on both sides of it
    return verb or "train"


def _take_verb_from_completion() -> str:
    """Hydra completes the typed line that the shell passes on, which still has the verb."""
    line = os.environ["COMP_LINE"]
    words = line.split()
    if len(words) < 2 or words[1] not in VERBS or words[1] in PLAIN:
        return "train"
    if words[1] in NAMED:  # what stands behind the name is of a training
        words[1] = " ".join(words[1:3])
    shorter = line.replace(f" {words[1]}", "", 1)
    os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", len(line))) - (len(line) - len(shorter)))
    os.environ["COMP_LINE"] = shorter
    return "train" if words[1] == "bench" else words[1]


def compose(verb: str, task: Task) -> None:
    """Let Hydra compose the jobs of the command line and call `task(cfg, sweep, overrides)` with each."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from seqmtl.composition import guard

    @hydra.main(version_base="1.3", config_path=str(conf_directory()), config_name=verb)
    def main(cfg: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        task(cfg, hydra_config.mode == RunMode.MULTIRUN, list(hydra_config.overrides.task))

    with contextlib.ExitStack() as stack:
        if {"-m", "--multirun"} & set(sys.argv):  # Hydra wants a directory, and nobody reads what it writes there
            place = stack.enter_context(tempfile.TemporaryDirectory())
            sys.argv.append(f"hydra.sweep.dir='{place}'")
            guard(place)
        else:
            guard("")
        main()


def run(verb: str) -> int:
    """Run one verb; the exit status."""
    if verb == "status":
        from seqmtl import status

        return status.main(sys.argv[1:])
    if verb == "sync":
        from seqmtl import sync

        return sync.run(sys.argv[1:])
    if verb == "compare":
        from seqmtl import compare

        return compare.main(sys.argv[1:])
    if verb in WORDS and not {"-h", "--help"} & set(sys.argv):
        return _words(verb)
    errors: list[SeqmtlError] = []

    def guarded(task: Task) -> Task:
        """Hydra would print a traceback of its own."""

        def inner(cfg: DictConfig, sweep: bool, overrides: list[str]) -> None:
            if cfg.debug:
                os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                allow(cfg.get("allow"), sys.argv[1:])
                refuse_shell(cfg.get("launcher", {}), sys.argv[1:])
                task(cfg, sweep, overrides)
            except SeqmtlError as e:
                errors.append(e)

        return inner

    if {"-h", "--help"} & set(sys.argv):
        from seqmtl.help import help_text

        print(help_text(verb, [conf_directory(), *_config_dirs(sys.argv)]))
        return 0
    if verb == "prepare":
        import seqmtl.prepare.verb as prepare

        compose(verb, guarded(lambda cfg, sweep, overrides: prepare.run(cfg)))
    else:
        from seqmtl import train
        from seqmtl.plan import Plan

        plan = Plan()
        compose(verb, guarded(plan.add))
        if not errors:
            return train.execute(plan)
    for error in errors:
        _say(error)
    return 1 if errors else 0


def _words(verb: str) -> int:
    """A verb that composes configs of its own."""
    if "debug=true" in sys.argv:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    folders = [conf_directory(), *_config_dirs(sys.argv)]
    words = [word for word, before in zip(sys.argv[1:], sys.argv, strict=False) if not _of_config_dir(word, before)]
    if verb == "table":
        from seqmtl import table

        return table.run(words, folders)
    if verb == "bench":
        from seqmtl.bench import verb as bench

        return bench.run(words, folders)
    from seqmtl import figure

    return figure.run(words, folders)


def _of_config_dir(word: str, before: str) -> bool:
    return word in CONFIG_DIR or before in CONFIG_DIR or word.startswith("--config-dir=")


def _config_dirs(argv: list[str]) -> list[Path]:
    """The user's own folders: --config-dir X, --config-dir=X or -cd X.

    Raises:
        SeqmtlError: one is no folder.
    """
    given = [b for a, b in itertools.pairwise(argv) if a in CONFIG_DIR]
    folders = [Path(x) for x in given + [a.partition("=")[2] for a in argv if a.startswith("--config-dir=")]]
    for folder in folders:
        if not folder.is_dir():
            raise SeqmtlError(f"--config-dir {folder}: there is no such folder")
    return folders


def _say(error: BaseException) -> None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        import traceback

        print(hide("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    text = str(error) if isinstance(error, SeqmtlError) else f"{type(error).__name__}: {error}"
    print(f"seqmtl: {hide(text)}", file=sys.stderr)


def main() -> None:
    """The command `seqmtl`."""
    try:
        sys.exit(run(take_verb(sys.argv)))
    except KeyboardInterrupt:
        print("\nseqmtl: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except SeqmtlError as e:
        _say(e)
        sys.exit(1)
    except Exception as e:
        _say(e)
        if os.environ.get("HYDRA_FULL_ERROR") != "1":
            print("    debug=true shows where", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
