"""`seqmtl --help`: Hydra's own takes a second, as it composes the defaults of each of its groups."""

from __future__ import annotations

import textwrap
from pathlib import Path

USAGE = {
    "train": """
        seqmtl trains multi-task models of multi-step conversions and compares them.

          seqmtl [overrides]            train, select on validation, test once
          seqmtl [overrides] -m a=1,2   sweep: one run for each combination; the same command again goes on
          seqmtl prepare dataset=NAME   raw files to shards (seqmtl prepare --help)
          seqmtl table NAME             a paper's table: run what is missing, then write it (seqmtl table --help)
          seqmtl figure NAME            a paper's figure (seqmtl figure --help)
          seqmtl bench [overrides]      how fast a config is on this machine (seqmtl bench --help)
          seqmtl compare A B            two runs or models: difference, interval, p (seqmtl compare --help)
          seqmtl status [output_dir]    what is running, interrupted, failed, finished (seqmtl status --help)
          seqmtl sync [output_dir]      send to MLflow what waits since it was away (seqmtl sync --help)

          seqmtl prepare dataset=aliccp_sim
          seqmtl model=apem dataset=aliccp_sim
          seqmtl -m model=mmoe,aitm,apem dataset=aliccp_sim seed=1,2,3,4,5
    """,
    "prepare": """
        seqmtl prepare makes shards of raw files; simulated raw files are made first.

          seqmtl prepare dataset=NAME [raw_dir=...] [data_dir=...] [dataset.prepare.KEY=...]

        Made already with the same options: says so, at once. With other options: refuses unless overwrite=true.
    """,
    "table": """
        seqmtl table runs what a paper's table needs and is not there yet, then writes it: means over seeds, gains, significance,
        and the published values beside ours.

          seqmtl table NAME [dataset=NAME] [part=NAME] [seeds=1,2,3,4,5] [--dry-run] [overrides]

        Overrides are those of a training and go to all rows: launcher=parallel, trainer=ddp, data_dir=..., trainer.max_epochs=1.
        --dry-run lists the jobs, and how long they will take by what finished ones took.
    """,
    "figure": """
        seqmtl figure runs what a paper's figure needs and is not there yet, then draws it: png, svg, and the points as csv.

          seqmtl figure NAME [dataset=NAME] [seeds=1,2,3,4,5] [figure.OPTION=...] [--dry-run] [overrides]

        figure.OPTION is one of the options in its YAML: figure.rows=100; figure.panels=[a,c] makes some of its panels.
    """,
    "bench": """
        seqmtl bench measures a config on this machine: rows per second of the training loop, of a bare torch loop of the same
        step, and of the inference with its metrics; most memory. It makes the rows itself, and keeps nothing.

          seqmtl bench [batches=100] [warm_up=10] [predict=200000] [repeats=3] [json=FILE] [overrides]

        Overrides are those of a training: model=mmoe model.dim=18 optimizer=adam trainer=gpu trainer.threads=1 batch_size=2000.

          batches=100 warm_up=10       training batches that are timed, after so many others
          predict=200000               rows of the inference
          repeats=3                    turns; the median is told, and the least and the most
          rows=0                       training rows; 0: as many as the batches have
          sizes=[238635,98,14] tasks=2 rows of each field's table (those of Ali-CCP's 18 fields), steps of the funnel
          data=DIRECTORY               a prepared dataset to read instead
          json=FILE                    all numbers, for a program
    """,
}
CHOSEN_BY_OTHERS = ("preset", "preset/trunk", "loss/paper", "loss/trunk", "dtrn_trunk", "table")  # by experiment, model, verb
ADDED = {"loss/term": "added to a loss: +loss/term@loss.terms.NAME=NAME"}


def help_text(verb: str, folders: list[Path]) -> str:
    """What there is in the conf folders: usage, the groups with their options, and the top-level keys with their comments."""
    if verb == "bench":
        return textwrap.dedent(USAGE[verb]).strip()
    if verb in ("table", "figure"):
        return _names(verb, folders)
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            group = path.parent.relative_to(folder).as_posix()
            if group not in (".", "table", "figure", *CHOSEN_BY_OTHERS) and (verb == "train" or group == "dataset"):
                groups.setdefault(group, set()).add(path.stem)
    width = max(map(len, groups))
    lines = [textwrap.dedent(USAGE[verb]).strip(), "", "Groups, chosen by group=option:", ""]
    for group, options in sorted(groups.items()):
        lines.append(f"  {group:<{width}}  {', '.join(sorted(options))}" + (f" ({ADDED[group]})" if group in ADDED else ""))
    lines += ["", "Keys, changed by key=value:", "", textwrap.indent(_own_keys(folders[0] / f"{verb}.yaml"), "  ")]
    call = "seqmtl" if verb == "train" else f"seqmtl {verb}"
    lines += [f"All options with their values, for any choice of groups: {call} --cfg job, {call} dataset=kuairand --cfg job"]
    lines += ["Shell completion and Hydra's own options: seqmtl --hydra-help"]
    return "\n".join(lines)


def _names(verb: str, folders: list[Path]) -> str:
    """Usage, and the titles of what there is."""
    import yaml

    titles = {}
    for folder in folders:
        for path in sorted((folder / verb).glob("*.yaml")):
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
                titles[path.stem] = str(content.get("title", "")) if isinstance(content, dict) else ""
            except (OSError, ValueError, yaml.YAMLError) as e:  # the others are there all the same
                titles[path.stem] = f"{path} cannot be read: {' '.join(str(e).split())}"
    width = max(map(len, titles), default=0)
    return "\n".join([textwrap.dedent(USAGE[verb]).strip(), "", *(f"  {name:<{width}}  {title}" for name, title in titles.items())])


def _own_keys(path: Path) -> str:
    """The text of a top-level YAML between its defaults list and its settings of Hydra."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return "\n".join(b for b in blocks if "defaults:" not in b and not b.startswith("hydra:")).strip() + "\n"
