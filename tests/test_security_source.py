"""Nothing in the source unpickles, evaluates text, or goes through a shell. The syntax trees say so, with every call in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pty", "commands", "jsonpickle"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "importlib.import_module", "import_module"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.dump", "logging.config.dictConfig"),
}
ENDINGS = ("load_from_checkpoint", "read_pickle", "unsafe_load", "gather_object", "broadcast_object_list", "scatter_object_list")
# By its place below src: what is right there, and only there.
RIGHT = {
    ("seqmtl/ranks.py", "all_gather_object"),
    ("seqmtl/targets.py", "hydra.utils"),
    ("seqmtl/status.py", "yaml.load"),  # with libyaml's safe loader
    ("seqmtl/launch/forks.py", "importlib.import_module"),  # of a list of its own
}
BY_NAME = {"instantiate", "get_object", "get_class", "get_method", "get_static_method", "call"}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"


def constant(call: ast.Call, name: str) -> object:
    """The value of a keyword; ... where it is not given."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else "not a constant"
    return ...


def findings(tree: ast.AST, place: str = "") -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imported(node, place)
        elif isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {what}" for what in _called(node, place))


def _imported(node: ast.Import | ast.ImportFrom, place: str) -> Iterator[str]:
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    names = {alias.name for alias in node.names}
    for name in {module} if module else names:
        if name.partition(".")[0] in MODULES:
            yield f"line {node.lineno}: imports {name}"
    whole = {name for name in names if name in ("hydra.utils", "hydra._internal.instantiate")}
    by_name = whole or (module.startswith("hydra") and names & (BY_NAME | {"utils", "*"}))
    if by_name and (place, "hydra.utils") not in RIGHT:
        yield f"line {node.lineno}: finds code by its name"
    if module in ("torch", "numpy", "yaml", "os", "subprocess", "importlib") and names & {
        "load",
        "system",
        "popen",
        "import_module",
    }:
        yield f"line {node.lineno}: hides {module}.{names}"


def _called(node: ast.Call, place: str) -> Iterator[str]:
    name = dotted(node.func)
    last = name.rpartition(".")[2]
    forbidden = name in CALLS or name.startswith(("os.exec", "os.spawn")) or name.startswith("hydra.utils.")
    if forbidden and (place, name) not in RIGHT:
        yield name
    if last.endswith(ENDINGS) and (place, last) not in RIGHT:
        yield name
    if name in ("torch.load", "np.load", "numpy.load"):
        key, safe = ("weights_only", True) if name == "torch.load" else ("allow_pickle", False)
        if constant(node, key) is not safe:
            yield f"{name} without {key}={safe}"
    if (
        last in ("fit", "test", "validate")
        and constant(node, "ckpt_path") is not ...
        and constant(node, "weights_only") is not True
    ):
        yield f"{name} of a checkpoint without weights_only=True"
    if constant(node, "shell") not in (..., False):
        yield f"{name} through a shell"
    if constant(node, "allow_pickle") not in (..., False):
        yield f"{name} with pickle"


def test_the_source_runs_no_code_from_files() -> None:
    assert len(FILES) > 100
    found = {}
    for path in FILES:
        place = path.relative_to(ROOT / "src").as_posix() if path.is_relative_to(ROOT / "src") else path.name
        found[place] = list(findings(ast.parse(path.read_text()), place))
    assert {place: what for place, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from pickle import loads", "import joblib.numpy_pickle", "eval('1')", "exec(text)", "__import__('os')"),
        *(
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "torch.load(path, weights_only=flag)",
            "from torch import load",
        ),
        *("np.load(path)", "np.load(path, allow_pickle=True)", "np.save(path, x, allow_pickle=True)", "yaml.load(text, Loader)"),
        *("yaml.unsafe_load(text)", "os.system('ls')", "os.execvp('ls', [])", "subprocess.run('ls', shell=True)"),
        *("subprocess.Popen(words, shell=flag)", "Model.load_from_checkpoint(path)", "trainer.fit(lit, ckpt_path=path)"),
        *("trainer.fit(lit, ckpt_path=path, weights_only=False)", "from hydra.utils import instantiate", "import hydra.utils"),
        *(
            "from hydra import utils",
            "hydra.utils.call(cfg)",
            "from importlib import import_module",
            "dist.all_gather_object(x, y)",
        ),
    ],
)
def test_it_would_be_seen(code: str) -> None:
    assert list(findings(ast.parse(code)))
