"""What a config may make Hydra do: compose, and nothing else.

Unusual: Hydra's own part of a config can call code (callbacks, logging, launchers), set environment variables and make
directories, and any file of a `--config-dir` can write into it. So every config is looked at as soon as it is composed. Hydra
has no place for that, hence the one method of it that is replaced here: all composition goes through it.
"""

from __future__ import annotations

from typing import Any

from seqmtl.errors import SeqmtlError

LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}
# What Hydra does before and after a job, and the values with which it does nothing.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "callbacks": ({},),
    "job_logging": (LOGGING,),
    "hydra_logging": (LOGGING,),
    "launcher": ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},),
    "sweeper": ({"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "max_batch_size": None, "params": None},),
    "run.dir": (".",),
    "sweep.dir": ("multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}",),
    "output_subdir": (None,),
    "job.chdir": (None, False),
    "job.env_copy": ([],),  # before env_set, into which Hydra has copied the values, so that they are not shown
    "job.env_set": ({},),
}


def guard(sweep_dir: str) -> None:
    """From here on Hydra refuses configs that make it do more than compose, and configs that read the environment.

    Args:
        sweep_dir: the directory that Hydra was given for a sweep.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    HARMLESS["sweep.dir"] += (sweep_dir,)
    compose = ConfigLoaderImpl.load_configuration
    if compose.__module__ == __name__:
        return

    def load_configuration(self: Any, *args: Any, **kwargs: Any) -> Any:
        cfg = compose(self, *args, **kwargs)
        _refuse_more_than_composing(OmegaConf.to_container(cfg.hydra, resolve=False))
        return cfg

    ConfigLoaderImpl.load_configuration = load_configuration
    OmegaConf.register_new_resolver("oc.env", _refuse_environment, replace=True)


def _refuse_more_than_composing(of_hydra: Any) -> None:
    from hydra.errors import ConfigCompositionException

    for key, harmless in HARMLESS.items():
        value = of_hydra
        for part in key.split("."):
            value = value[part]
        if value not in harmless:
            # Hydra prints the message of its own kind of error only without a traceback.
            raise ConfigCompositionException(
                f"seqmtl: the config sets hydra.{key} to {value}, but Hydra only composes here: it runs and logs nothing;"
                " take that out (seqmtl's own launchers: launcher=NAME)"
            )


def _refuse_environment(name: str, *_: Any) -> None:
    raise SeqmtlError(
        f"${{oc.env:{name}}} would write a variable of your environment, which may be a secret, into config.yaml and MLflow;"
        f" give the value on the command line, where the shell fills it in: key=${name}"
    )
