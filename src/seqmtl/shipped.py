"""What conf/ ships, for messages that name what works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqmtl.errors import SeqmtlError


def conf_directory() -> Path:
    """conf/ beside the package in an installed wheel, two folders up in a checkout or an editable install."""
    here = Path(__file__).resolve().parent
    for place in (here / "conf", here.parents[1] / "conf"):
        if (place / "train.yaml").is_file():
            return place
    raise SeqmtlError(f"seqmtl's conf/ is neither in {here} nor in {here.parents[1]}; install seqmtl again")


def datasets_with_histories() -> list[str]:
    """Names of the datasets that have histories of what users did."""
    return [path.stem for path in sorted((conf_directory() / "dataset").glob("*.yaml")) if _read(path).get("histories")]


def bottoms() -> dict[str, str]:
    """{model: the class of its bottom, of one around another the inner one's} of all models that have one, variants apart."""
    found = {}
    for path in sorted((conf_directory() / "model").glob("*.yaml")):
        chosen = {k: v for part in _read(path).get("defaults", []) if isinstance(part, dict) for k, v in part.items()}
        if "bottom" in chosen:
            found[path.stem] = _innermost(chosen["bottom"])
    return found


def _innermost(bottom: str) -> str:
    content = _read(conf_directory() / "model" / "bottom" / f"{bottom}.yaml")
    for part in content.get("defaults", []):
        for group, name in part.items() if isinstance(part, dict) else ():
            if group.startswith("/model/bottom@"):
                return _innermost(name)
    return str(content["_target_"])


def _read(path: Path) -> dict[str, Any]:
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
