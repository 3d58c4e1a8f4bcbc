"""A config, whoever wrote it, names nothing that could run a stranger's code; more is let in on the command line only."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conftest import CONF
from seqmtl import targets
from seqmtl.build import build, build_launcher, runner
from seqmtl.composition import guard
from seqmtl.errors import SeqmtlError
from seqmtl.plan import check
from seqmtl.prepare.verb import _function
from test_cli import SMALL, seqmtl

OUTSIDE = (
    *("os.system", "builtins.eval", "subprocess.run", "functools.partial", "torch.load", "torch.hub.load", "seqmtl.nothing"),
    *("hydra.utils.call", "hydra.utils.instantiate", "hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object"),
    *("torch.nnn.Linear", "seqmtlx.models.Model", "seqmtl.modelsx.Model", "seqmtl.models", "mtl", "", ".", None, 5, ["os.system"]),
    *("seqmtl.disk.write_file", "seqmtl.runs.run_directory", "seqmtl.checkpoint.load_weights", "seqmtl.job.os.system"),
    *("seqmtl.models..os.system", "seqmtl.models.mtl.__builtins__.eval", "seqmtl.models.mtl.MTLModel.__init__.__globals__"),
    *("lightning.pytorch.cli.LightningCLI", "lightning.pytorch.core.saving._load_from_checkpoint", "${oc.env:HOME}"),
)
# They begin well, and lead out through what a module imports, through a class, or to what loads a file.
INSIDE = (
    *("seqmtl.models.mtl.torch.load", "seqmtl.launch.local.os.system", "seqmtl.launch.local.subprocess.run"),
    *("seqmtl.launch.local.command", "torch.nn.functional.torch.load", "torch.nn.modules.module.torch.hub.load"),
    *("torch.nn.functional.importlib.import_module", "torch.nn.Module.load_state_dict", "torch.nn.utils.clip_grad_norm_"),
    *(
        "seqmtl.prepare.aliccp.prepare",
        "seqmtl.boost.run",
        "torch.nn.functional.conv1d",
        "torch.nn.modules.utils.collections.OrderedDict",
        "seqmtl.models.mtl",
    ),
)


@pytest.mark.parametrize("name", [*OUTSIDE, *INSIDE])
def test_what_runs_other_code_cannot_be_named(name: Any) -> None:
    with pytest.raises(SeqmtlError, match=r"allow=\[|cannot be found"):
        build({"_target_": name})


@pytest.mark.slow  # to import Lightning
@pytest.mark.parametrize(
    "name", ["LightningModule.load_from_checkpoint", "core.saving.load_hparams_from_yaml", "core.saving.yaml.full_load"]
)
def test_what_lightning_could_run_cannot_be_named(name: str) -> None:
    with pytest.raises(SeqmtlError, match=r"allow=\["):
        build({"_target_": f"lightning.pytorch.{name}"})
    assert targets.find("lightning.pytorch.callbacks.Callback", "_target_").__name__ == "Callback"


@pytest.mark.parametrize("name", ["torch.nn.ReLU", "torch.nn.functional.relu", "torch.nn.init.zeros_", "torch.optim.SGD"])
def test_what_computes_can(name: str) -> None:
    assert targets.find(name, "_target_").__name__ == name.rpartition(".")[2]


def test_all_that_ships_can_be_named() -> None:
    shipped = {name for path in CONF.rglob("*.yaml") for name in re.findall(r"_target_: ([\w.]+)", path.read_text())}
    assert len(shipped) > 50
    places = {"prepare": "dataset.prepare", "simulate": "dataset.prepare", "launch": "launcher"}
    for name in shipped:
        asked = places.get(name.split(".")[1], "_target_") if name.startswith("seqmtl.") else "_target_"
        assert callable(targets.find(name, asked))


@pytest.mark.parametrize("name", ["seqmtl.launch.slurm.run", "seqmtl.launch.local.run", "seqmtl.launch.command.Job"])
def test_what_starts_processes_is_no_part_of_a_model(name: str) -> None:
    with pytest.raises(SeqmtlError, match=r"_target_: .* is nothing that a config may name there"):
        build({"_target_": name, "run_dir": "x"})
    with pytest.raises(SeqmtlError, match="is nothing that a config may name there"):
        build_launcher(
            {"_target_": "seqmtl.launch.local.run", "_partial_": True, "events": {"_target_": "seqmtl.launch.command.Job"}}
        )


@pytest.mark.parametrize(("key", "value"), [("setup", ["rm -rf /"]), ("extra", {"export": "PYTHONPATH=/tmp"})])
def test_what_else_a_job_runs_is_said_on_the_command_line(key: str, value: Any) -> None:
    launcher = {"name": "slurm", "setup": [], "extra": {}}
    targets.refuse_shell(launcher, [])
    with pytest.raises(SeqmtlError, match=rf"a config sets launcher\.{key}="):
        targets.refuse_shell(launcher | {key: value}, ["launcher=slurm", "-m"])
    targets.refuse_shell(launcher | {key: value}, ["launcher=slurm", f"launcher.{key}={value}"])
    targets.refuse_shell(launcher | {"extra": {"mail_type": "END"}}, ["+launcher.extra.mail_type=END"])


@pytest.mark.parametrize("name", ["os.system", "seqmtl.boost.lgb.Booster", "seqmtl.boost.Boosting", "seqmtl.launch.local.run"])
def test_a_runner_is_one_that_ships(name: str) -> None:
    with pytest.raises(SeqmtlError, match=r"model\.runner: .*allow=\["):
        runner({"model": {"runner": name}})


@pytest.mark.parametrize("name", ["os.system", "seqmtl.prepare.verb.run", "seqmtl.prepare.verb.Path", "seqmtl.launch.local.run"])
def test_a_converter_is_one_that_ships(name: str) -> None:
    with pytest.raises(SeqmtlError, match=r"dataset\.prepare\._target_ must name a function: .*allow=\["):
        _function({"_target_": name}, "dataset.prepare", {})


EVIL = {"_target_": "stranger.Evil"}


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that leaves a file behind when it is imported; the path of that file."""
    trace = tmp_path / "imported"
    (tmp_path / "stranger.py").write_text(
        f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Evil:\n    pass\ndef evil(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(targets.ENVIRONMENT, raising=False)
    yield trace
    sys.modules.pop("stranger", None)


NODES: list[dict[str, Any]] = [
    *({group: EVIL} for group in ("model", "loss", "step", "optimizer", "launcher")),
    {"dataset": {"prepare": {"simulate": EVIL}}},
    {"model": {"stages": {"meta": {"step": EVIL}}}},
    {"model": {"trunk": {"_target_": "torch.nn.ReLU", "_args_": [EVIL]}}},
    {"model": {"trunk": {"_target_": "torch.nn.ReLU", "_recursive_": False, "deep": [[{"er": EVIL}]]}}},
    {"model": {"runner": "stranger.evil"}},
]


@pytest.mark.parametrize("change", NODES, ids=str)
def test_wherever_it_stands_it_is_refused_before_it_is_imported(
    compose: Any, tmp_path: Path, stranger: Path, change: dict[str, Any]
) -> None:
    config = OmegaConf.to_container(OmegaConf.merge(compose("model=mmoe"), change))
    with pytest.raises(SeqmtlError, match=r"stranger\.[eE]vil is no name that a config may use"):
        check(config | {"data_dir": str(tmp_path)})  # type: ignore[operator, arg-type]
    assert not stranger.exists()


def test_no_node_is_called_before_all_are_looked_at(stranger: Path) -> None:
    with pytest.raises(SeqmtlError, match=r"stranger\.Evil"):
        build({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.ReLU", "inplace": [EVIL]}]})
    assert not stranger.exists()


def test_a_text_does_not_become_a_node_while_it_is_built(stranger: Path) -> None:
    # An escaped interpolation outlives the composition and would be resolved by Hydra's instantiate.
    text = "${oc.create:{_target_:stranger.Evil}}"
    with pytest.raises(SeqmtlError, match="resolved already"):
        build({"_target_": "torch.nn.Sequential", "_args_": [text]})
    assert not stranger.exists()


def test_an_own_package_is_let_in_by_the_command_line_or_the_environment(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(targets.ENVIRONMENT, "other")
    targets.allow(["stranger."], ["model=mine", "allow=[stranger.]"])
    assert os.environ[targets.ENVIRONMENT].split(",") == ["other.", "stranger."], "what jobs get"
    assert type(build(EVIL)).__name__ == "Evil"
    assert stranger.exists()
    assert runner({"model": {"runner": "stranger.evil"}}).__name__ == "evil"
    with pytest.raises(SeqmtlError, match="nothing that a config may name"):
        targets.find("stranger.pathlib.Path", "_target_")
    with pytest.raises(SeqmtlError, match="no name that a config may use"):
        targets.find("strangers.Evil", "_target_")


def test_a_config_does_not_let_itself_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(targets.ENVIRONMENT, raising=False)
    for words in ([], ["model=evil"], ["model.allow=[x]", "allowed=1"]):
        with pytest.raises(SeqmtlError, match=r"a config sets allow=\['stranger\.'\].* on the command line only"):
            targets.allow(["stranger."], words)
    for given in (".", ["."], [""], "os.", [5], ["a b"]):
        with pytest.raises(SeqmtlError, match="must be a list of packages"):
            targets.allow(given, ["allow=…"])
    assert targets.ENVIRONMENT not in os.environ


def test_what_is_allowed_does_not_name_the_run(compose: Any) -> None:
    from seqmtl.runner import reduced, refuse_unread
    from seqmtl.runs import config_hash

    assert config_hash(compose("allow=[mylab.]")) == config_hash(compose())
    boosted = compose("model=lightgbm", "allow=[mylab.]")
    refuse_unread(boosted, ["model=lightgbm", "allow=[mylab.]"])
    assert config_hash(reduced(boosted)) == config_hash(reduced(compose("model=lightgbm")))


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hydra as the command line uses it."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf.resolvers import oc

    there = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", there)
    guard("")
    yield
    if there.__module__ != guard.__module__:  # else a test before this one has guarded the whole process
        OmegaConf.register_new_resolver("oc.env", oc.env, use_cache=False, replace=True)


def composed(folder: Path, content: dict[str, Any]) -> Any:
    """With experiment=evil of a folder that is a stranger's, and that may set anything."""
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra_compose("train", overrides=["experiment=evil", f"hydra.searchpath=[{folder}]"])


@pytest.mark.parametrize(
    "of_hydra",
    [
        {"callbacks": {"evil": EVIL}},
        {"job_logging": {"handlers": {"evil": {"()": "os.system", "command": "true"}}}},
        {"hydra_logging": {"handlers": {"evil": {"class": "logging.FileHandler", "filename": "evil"}}}},
        {"launcher": {"_target_": "stranger.Launcher"}},
        {"sweeper": {"params": {"allow": "[stranger.]"}}},
        {"job": {"env_set": {"PYTHONPATH": "stranger"}}},
        {"job": {"env_copy": ["SECRET"]}},
        {"job": {"chdir": True}},
        {"run": {"dir": "../elsewhere"}},
        {"sweep": {"dir": "../elsewhere"}},
        {"output_subdir": "../elsewhere"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("guarded")
def test_a_config_makes_hydra_do_nothing_but_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_hydra: dict[str, Any]
) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    (key,) = of_hydra
    with pytest.raises(ConfigCompositionException, match=rf"the config sets hydra\.{key}.*Hydra only composes here") as caught:
        composed(tmp_path, {"hydra": of_hydra})
    assert "swordfish" not in str(caught.value)


@pytest.mark.usefixtures("guarded")
def test_a_config_does_not_read_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    cfg = composed(tmp_path, {"dataset": {"about": "${oc.env:SECRET,none}"}})
    with pytest.raises(OmegaConfBaseException, match="a variable of your environment, which may be a secret") as caught:
        OmegaConf.to_container(cfg, resolve=True)
    assert "swordfish" not in str(caught.value)


@pytest.mark.usefixtures("guarded")
def test_a_config_that_only_composes_is_taken(tmp_path: Path) -> None:
    assert composed(tmp_path, {"seed": 7}).seed == 7
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        assert hydra_compose("prepare", overrides=[]).dataset.name == "aliccp_sim"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"hydra": {"job_logging": {"handlers": {"x": {"class": "logging.FileHandler", "filename": "evil"}}}}},
            "hydra.job_logging",
        ),
        ({"allow": ["stranger."]}, "a config sets allow=['stranger.']"),
        ({"seed": "${oc.env:SECRET}"}, "a variable of your environment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_command_line_refuses_in_words(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    done = seqmtl(tmp_path, "--config-dir", "conf", "experiment=evil", SECRET="swordfish")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "swordfish" not in done.stderr + done.stdout
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
def test_the_jobs_of_a_sweep_get_what_is_allowed(tmp_path: Path, dataset: Path) -> None:
    (tmp_path / "mylab.py").write_text("from seqmtl.models.flat import Flat\n\n\nclass Own(Flat):\n    pass\n")
    (tmp_path / "conf" / "model" / "bottom").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "bottom" / "own.yaml").write_text("name: own\n_target_: mylab.Own\n_partial_: true\n")
    words = ("-m", "--config-dir", "conf", "model/bottom=own", "seed=1,2", *SMALL)
    here = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = seqmtl(tmp_path, *words, "allow=[mylab.]", timeout=300, **here)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 jobs finished" in done.stdout
    done = seqmtl(tmp_path, *words, timeout=300, **here)
    assert done.returncode == 1
    assert "mylab.Own is no name that a config may use" in done.stderr
