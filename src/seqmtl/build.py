"""From the plain config of a run to objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from seqmtl.errors import SeqmtlError
from seqmtl.shipped import bottoms, datasets_with_histories
from seqmtl.targets import find, found_in, instantiate

# What a stage cannot have of its own: the data, and where the job runs.
OF_THE_RUN = (
    *("data_dir", "raw_dir", "output_dir", "debug", "allow", "launcher"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("dataset.name", "dataset.tasks", "dataset.fields", "dataset.histories", "dataset.bags", "dataset.main_history"),
    *("dataset.profile", "dataset.transfer", "dataset.user", "dataset.prepare", "dataset.parents"),
)
# Keys that the config itself reads; the classes never see them.
NOT_ARGUMENTS = ("name", "runner", "stages", "selection")


def build_launcher(node: Mapping[str, Any]) -> Any:
    """What runs a list of jobs: (jobs, sweep, events) → None.

    Raises:
        SeqmtlError: it is none of seqmtl's launchers, nor one that the command line allows.
    """
    return instantiate(_without_names(node), "launcher")


def build(node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Instantiate a node, less the keys that only the config itself reads; a partial is finished with the arguments, if any.

    Raises:
        SeqmtlError: the node does not fit its class.
    """
    from hydra.errors import InstantiationException

    try:
        made = instantiate(_without_names(node))
        return made(*args, **kwargs) if args or kwargs else made
    except SeqmtlError:
        raise
    except (InstantiationException, TypeError, ValueError) as e:
        # Hydra hides a SeqmtlError in its own kind.
        cause = e.__cause__
        if isinstance(cause, SeqmtlError):
            raise cause from None
        reason, name = str(e).splitlines()[0], node.get("name", node.get("_target_"))
        hint = ""
        if "unexpected keyword argument" in reason and {"bottom", "trunk"} <= set(node):
            hint = (
                f"; model={name} sets sizes of its own parts, which another part may not take: put that part into a model that sets"
                " none, as model=dmt model/bottom=flat model/trunk=m2m"
            )
        raise SeqmtlError(f"cannot build '{name}': {reason}{hint}") from e


def _without_names(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {k: _without_names(v) for k, v in node.items() if k not in NOT_ARGUMENTS}
    return [_without_names(v) for v in node] if isinstance(node, list) else node


def stage_config(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The run's config with one stage's: loss, step and optimizer are replaced where they name a class, all else is merged.

    Raises:
        SeqmtlError: a key that the run's config does not have, or a word where it has a mapping.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(config))
    for key, value in overrides.items():
        if isinstance(config.get(key), Mapping) and not isinstance(value, Mapping):
            hint = f": +{key}@model.stages.NAME.{key}={value}" if key in ("loss", "step", "optimizer", "trainer") else ""
            raise SeqmtlError(
                f"a stage sets {key}={value}, but {key} is a group or mapping, of which a stage takes the content{hint}"
            )
        if key in ("loss", "step", "optimizer") and "_target_" in value:
            merged[key] = copy.deepcopy(dict(value))
        else:
            _merge(merged, key, value)
    return merged


def _merge(into: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, Mapping) and isinstance(into.get(key), dict):
        for k, v in value.items():
            _merge(into[key], k, v)
    elif key in into:
        into[key] = copy.deepcopy(value)
    else:
        raise SeqmtlError(f"a stage sets '{key}', which the config does not have; see seqmtl --cfg job")


def stages(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{stage: its overrides}, `main` last wherever a YAML put it, less those that a variant sets to null.

    Raises:
        SeqmtlError: a name that cannot be one, or a stage sets what it cannot have of its own.
    """
    given = config["model"]["stages"]
    if not isinstance(given, Mapping) or given.get("main", {}) is None:
        raise SeqmtlError("model.stages must be a mapping of stages; main is always one of them, null leaves out another")
    found = {name: overrides for name, overrides in given.items() if overrides is not None}
    found["main"] = found.pop("main", {})
    for name, overrides in found.items():
        if not str(name).isidentifier() or name in ("train", "val", "test"):
            raise SeqmtlError(f"model.stages: a stage cannot be named '{name}', as its folder and its metrics; take another word")
        if not isinstance(overrides, Mapping):
            raise SeqmtlError(f"model.stages.{name}={overrides} must be a mapping of what the stage sets, or null to leave it out")
        for key in _paths(overrides):
            if any(key == of_run or key.startswith(f"{of_run}.") for of_run in OF_THE_RUN):
                raise SeqmtlError(f"model.stages.{name} sets {key}, which all stages have in common; set it for the run: {key}=…")
    return found


def _paths(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def runner(config: Mapping[str, Any]) -> Any:
    """The function that trains a model which is no torch module (see runner.py); None for a torch module.

    Raises:
        SeqmtlError: there is no such function, or a config may not name it.
    """
    name = config["model"].get("runner")
    return None if name is None else find(name, "model.runner")


def check_pairs(config: Mapping[str, Any]) -> None:
    """Refuse, for each stage, a model that reads histories where there are none, and a loss or a step that needs what no part of
    the model provides, before any data are read.

    Raises:
        SeqmtlError: says what is missing and a pair that works.
    """
    if runner(config) is not None:
        return
    for overrides in stages(config).values():
        its_config = stage_config(config, overrides)
        _check_histories(its_config)
        _check_loss(its_config)
        _check_step(its_config)
        _check_weights(its_config)


def _check_histories(config: Mapping[str, Any]) -> None:
    if config["dataset"]["histories"] or not _reads_histories(config["model"]):
        return
    model, dataset = config["model"]["name"], config["dataset"]["name"]
    others = [name for name, bottom in bottoms().items() if not _reads_histories({"_target_": bottom})]
    bottom = config["model"].get("bottom", {}).get("name")
    chosen = f"model={model} model/bottom={bottom}" if bottom else f"model={model}"
    raise SeqmtlError(
        f"{chosen} reads histories of what users did, and dataset={dataset} has none."
        f" Datasets with histories: {', '.join(datasets_with_histories())}; one of your own names them in dataset.histories."
        f" What reads none: model/bottom=flat, and as they are the models {', '.join(others)}, lightgbm"
    )


def _reads_histories(node: Any) -> bool:
    return any(getattr(target, "needs_histories", False) for target in found_in(node))


def _check_step(config: Mapping[str, Any]) -> None:
    balances = any(getattr(target, "needs_shared", False) for target in found_in(config["step"]))
    if balances and not all(getattr(target, "shared", True) for target in found_in(config["model"])):
        model, step = config["model"]["name"], config["step"]["name"]
        raise SeqmtlError(
            f"step={step} balances what the tasks pull at together, but the tasks of model={model} share nothing;"
            f" model={model} step=plain works, and so does model=shared_bottom step={step}"
        )


def _check_weights(config: Mapping[str, Any]) -> None:
    ratios = any(getattr(target, "weighs_by_ratios", False) for target in found_in(config["step"]))
    if ratios and any(getattr(target, "weighs", False) for target in found_in(config["loss"])):
        step, loss = config["step"]["name"], config["loss"]["name"]
        raise SeqmtlError(
            f"step={step} weighs the tasks by the ratios of their losses, but loss={loss} weighs them itself, and what it weighs"
            f" may fall below 0; loss={loss} step=plain works, and so does loss=bce step={step}"
        )


def _check_loss(config: Mapping[str, Any]) -> None:
    terms = list(found_in(config["loss"]))
    provides = set().union(*(getattr(target, "provides", ()) for target in found_in(config["model"])))
    missing = sorted(set().union(*(getattr(term, "needs", ()) for term in terms)) - provides)
    if missing:
        model, loss = config["model"]["name"], config["loss"]["name"]
        others = {term.works_with for term in terms if hasattr(term, "works_with")} - {model}
        raise SeqmtlError(
            f"loss={loss} needs {', '.join(missing)}, which model={model} does not provide"
            f" (it provides {', '.join(sorted(provides)) or 'logits only'}); model={model} loss=bce works"
            + "".join(f", and so does model={other} loss={loss}" for other in sorted(others))
        )
