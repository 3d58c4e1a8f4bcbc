"""`seqmtl compare A B`: do two models differ, task by task, and on what evidence. It only reads finished runs.

docs/compare.md tells how to read what it prints.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmtl.errors import SeqmtlError

if TYPE_CHECKING:
    from rich.table import Table

    from seqmtl.runs import Run
    from seqmtl.tables.comparison import Answer

ABOUT = """
Compare two finished runs, or two models over their finished seeds: AUC and LogLoss of each task on the test rows, the difference
B - A, its 95 % interval and p, by the users of the dataset (dataset.user), by a bootstrap and over the seeds. Nothing is changed.
"""

Entry = dict[str, Any]
Found = dict[Path, list[Entry]]  # the runs that a word may mean, by the directory of their config


@dataclass(frozen=True)
class Side:
    """A or B.

    Args:
        word: on the command line.
        place: the run directory, or that of the config.
        config: of its first finished run.
        runs: those that are finished, by seed.
        left_out: those that are not, in words.
        version: of the data that all of them are of.
    """

    word: str
    place: Path
    config: dict[str, Any]
    runs: dict[int, Run]
    left_out: tuple[str, ...]
    version: str


def main(argv: Sequence[str]) -> int:
    """The verb.

    Raises:
        SeqmtlError: A or B is no finished run or could be several, they are of other data, or the data are not there any more.
    """
    parser = argparse.ArgumentParser(prog="seqmtl compare", description=ABOUT)
    parser.add_argument("A", help="a run directory, the directory of all seeds of a config, or a name: mmoe, mmoe/bce")
    parser.add_argument("B", help="what it is compared with, named likewise")
    parser.add_argument("--dataset", default="", metavar="NAME", help="of which dataset, where runs of several have that name")
    parser.add_argument("--output-dir", default=Path("outputs"), type=Path, help="where names are looked for (outputs)")
    parser.add_argument("--data-dir", type=Path, help="where the data lie now (where the runs read them)")
    parser.add_argument("--user", metavar="FIELD", help="field whose rows belong together; none: each row by itself (dataset.user)")
    parser.add_argument("--repeats", default=1000, type=int, metavar="N", help="of the bootstrap; 0 leaves it out (1000)")
    parser.add_argument("--json", action="store_true", help="an object on standard output; docs/compare.md has its keys")
    arguments = parser.parse_args(argv)
    if arguments.repeats != 0 and arguments.repeats < 100:
        raise SeqmtlError(f"--repeats must be at least 100, or 0 for no bootstrap, not {arguments.repeats}")
    a, b = sides(arguments.A, arguments.B, arguments.output_dir, arguments.dataset)
    answer = _answer(a, b, arguments)
    if arguments.json:
        json.dump(answer.to_json(), sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        _show(answer)
    return 0


def sides(word_a: str, word_b: str, output_dir: Path, dataset: str = "") -> tuple[Side, Side]:
    """The runs that are meant by two words.

    Raises:
        SeqmtlError: as `main`.
    """
    words = (word_a, word_b)
    named: list[Entry] = []
    if not all(_directory(word, output_dir) for word in words):
        named = _named(output_dir, dataset)
    found = [_found(word, output_dir, named) for word in words]
    # What could be several may be one beside the other: of the datasets that both have runs of.
    common = set.intersection(*({entry["dataset"] for entries in one.values() for entry in entries} for one in found))
    chosen = [_narrowed(one, common) for one in found]
    a, b = (_side(word, _one(word, one, dataset)) for word, one in zip(words, chosen, strict=True))
    if a.config["dataset"]["name"] != b.config["dataset"]["name"]:
        names = " and ".join(f"{side.word} of {side.config['dataset']['name']}" for side in (a, b))
        raise SeqmtlError(f"runs of two datasets cannot be compared: {names}")
    if a.version != b.version:
        raise SeqmtlError(
            f"{a.word} and {b.word} are of two versions of {a.config['dataset']['name']} ({a.version[:8]} and {b.version[:8]}):"
            " it was prepared anew in between; the command that trains a model does so again where its data have changed"
        )
    if a.place == b.place:
        raise SeqmtlError(f"{a.word} and {b.word} are the same: {a.place}")
    return a, b


def _directory(word: str, output_dir: Path) -> Path | None:
    """The directory that a word names, if it is that of a run or of the seeds of a config: a name may be that of another folder."""
    for place in (Path(word), output_dir / word):
        if place.is_dir() and (place.absolute().name.startswith("seed=") or any(place.glob("seed=*"))):
            return place.absolute()
    return None


def _named(output_dir: Path, dataset: str) -> list[Entry]:
    from seqmtl.status import entries

    if not output_dir.is_dir():
        raise SeqmtlError(f"there is no directory {output_dir}; say where the runs lie: --output-dir DIR")
    found = [entry for entry in entries(output_dir) if dataset in ("", entry["dataset"])]
    if not found:
        of = f" of dataset {dataset}" if dataset else ""
        raise SeqmtlError(f"there are no runs{of} in {output_dir.absolute()}; seqmtl status shows what there is")
    return found


def _found(word: str, output_dir: Path, named: Sequence[Entry]) -> Found:
    """The runs that a word may mean."""
    from seqmtl.status import entries

    place = _directory(word, output_dir)
    chosen = entries(place) if place is not None else [entry for entry in named if word in _names(entry)]
    if not chosen:
        names = ", ".join(sorted({entry["label"] for entry in named})) or "no others"
        raise SeqmtlError(f"{word} is no run directory, and no run is named so; there are {names}")
    found: Found = {}
    for entry in sorted(chosen, key=lambda entry: (entry["seed"] is None, entry["seed"])):
        found.setdefault(Path(entry["path"]).parent, []).append(entry)
    return found


def _names(entry: Entry) -> set[str]:
    """mmoe · mmoe/bce · mmoe/bce/pcgrad · mmoe/bce dim=8 · mmoe-bce-1a2b3c4d · 1a2b3c4d"""
    folder = Path(entry["path"]).parent.name
    names = {entry["label"], folder, folder.rpartition("-")[2]}
    if entry["model"] is not None:
        names |= {entry["model"], f"{entry['model']}/{entry['loss']}", f"{entry['model']}/{entry['loss']}/{entry['step']}"}
    return names


def _narrowed(found: Found, datasets: set[str]) -> Found:
    fewer = {place: entries for place, entries in found.items() if entries[0]["dataset"] in datasets}
    return fewer or found


def _one(word: str, found: Found, dataset: str) -> list[Entry]:
    """The runs of the one config that there is.

    Raises:
        SeqmtlError: there are several; says how to choose.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    several = len({entries[0]["dataset"] for entries in found.values()}) > 1
    how = "say which: --dataset NAME" if several and not dataset else "say which by its directory"
    lines = [f"    {place}  ({entries[0]['label']}: {_states(entries)})" for place, entries in sorted(found.items())]
    raise SeqmtlError(f"{word} could be {len(found)} configs; {how}\n" + "\n".join(lines))


def _states(entries: Sequence[Entry]) -> str:
    from collections import Counter

    return ", ".join(f"{n} {state}" for state, n in Counter(entry["state"] for entry in entries).items())


def _side(word: str, entries: Sequence[Entry]) -> Side:
    from seqmtl.job import read_config
    from seqmtl.runs import Run
    from seqmtl.status import WORDS

    paths = [Path(entry["path"]) for entry in entries]
    # The folder of a seed that is no number is not one of ours.
    finished = {
        entry["seed"]: Run(Path(entry["path"])) for entry in entries if entry["state"] == "finished" and entry["seed"] is not None
    }
    states = [WORDS.get(entry["state"], entry["state"]) for entry in entries]
    others = tuple(
        f"{p.name} is {state}" for p, state, entry in zip(paths, states, entries, strict=True) if entry["seed"] not in finished
    )
    place = paths[0] if len(paths) == 1 else paths[0].parent
    if not finished:
        raise SeqmtlError(f"{word} has no finished run in {paths[0].parent} ({', '.join(others)}); its command goes on with it")
    versions = {seed: str(run.status().get("data_version")) for seed, run in finished.items()}
    if len(set(versions.values())) > 1:
        told = ", ".join(f"seed={seed} of {version[:8]}" for seed, version in versions.items())
        raise SeqmtlError(f"the seeds of {word} are of different versions of the data: {told}; its command trains them again")
    first = next(iter(finished))
    return Side(word, place, read_config(finished[first].path), finished, others, versions[first])


def _answer(a: Side, b: Side, arguments: argparse.Namespace) -> Answer:
    """Read the rows and compare."""
    from seqmtl.data.meta import data_version
    from seqmtl.data.prepared import open_dataset
    from seqmtl.runs import run_label, told_apart
    from seqmtl.tables.comparison import Model, compare
    from seqmtl.tables.predictions import labels

    config = a.config if arguments.data_dir is None else a.config | {"data_dir": str(arguments.data_dir)}
    place = Path(config["data_dir"]).absolute() / config["dataset"]["name"]
    if not (place / "meta.json").is_file():
        raise SeqmtlError(f"the data of these runs are not in {place}; say where they lie now: --data-dir DIR")
    directory, meta = open_dataset(config)
    if data_version(directory, meta) != a.version:
        raise SeqmtlError(
            f"{directory} holds another version of the data than these runs are of ({a.version[:8]}); either make it as it was,"
            " or train again: the command that trained a model does so where its data have changed"
        )
    tasks = [task for task in a.config["dataset"]["tasks"] if task in b.config["dataset"]["tasks"]]
    if not tasks:
        raise SeqmtlError(f"{a.word} and {b.word} have no task in common")
    user = a.config["dataset"].get("user") if arguments.user is None else arguments.user
    user = None if user in (None, "none", "null") else str(user)
    truth = labels(directory, meta, tasks, user)
    names = [run_label(side.config) for side in (a, b)]
    if len({next(iter(side.runs.values())).path.parent for side in (a, b)}) > 1:
        names = told_apart([a.config, b.config])
    else:  # seeds of one config
        names = [f"{name} {side.place.name}" for name, side in zip(names, (a, b), strict=True)]
    models = [
        Model(name, side.place, side.runs, tuple(side.config["dataset"]["tasks"]), side.left_out)
        for name, side in zip(names, (a, b), strict=True)
    ]
    return compare(models[0], models[1], truth, dataset=directory.name, version=a.version, user=user, repeats=arguments.repeats)


def _show(answer: Answer) -> None:
    from seqmtl.report import console

    for letter, model in zip("AB", (answer.a, answer.b), strict=True):
        seeds = ", ".join(map(str, model.runs))
        print(f"{letter}: {model.name}, {'seed' if len(model.runs) == 1 else 'seeds'} {seeds}  ({model.place})")
        if model.left_out:
            print(f"   left out: {'; '.join(model.left_out)}")
    print(f"{answer.dataset}, {answer.rows:,} test rows, {answer.clusters}; data {answer.version[:8]}")
    if answer.tasks_left_out:
        print(f"only one of the two has the task {', '.join(answer.tasks_left_out)}")
    console().print(_table(answer))
    for sentence in answer.sentences():
        print(sentence)


def _table(answer: Answer) -> Table:
    from rich.table import Table

    from seqmtl.report import plus_minus
    from seqmtl.tables.comparison import METRICS

    tasks = len({measured.task for measured in answer.measured})
    of = "rows" if answer.clusters == "rows" else "users"
    table = Table(caption=f"p after Holm's correction over {tasks} tasks" if tasks > 1 else None, caption_justify="left")
    heads = ["task", "metric", "A", "B", "B - A", f"95 % by {of}", f"p by {of}", "95 % bootstrap", "p bootstrap", "p over seeds"]
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 2 else "right")
    for measured in answer.measured:
        tests = (measured.rows, measured.bootstrap, measured.seeds)
        rows, bootstrap, seeds = (("", "") if test is None else (_interval(test.interval), _p(test.decisive)) for test in tests)
        difference = measured.rows.difference
        table.add_row(
            measured.task,
            METRICS[measured.metric][0],
            *(plus_minus(list(values.values())) for values in (measured.a, measured.b)),
            "undefined" if difference is None else f"{difference:+.4f}",
            *rows,
            *bootstrap,
            seeds[1],
            end_section=measured.metric == list(METRICS)[-1],
        )
    return table


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.4f} {interval[1]:+.4f}"


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
