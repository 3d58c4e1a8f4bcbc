"""Names from configs and datasets that become files: none leads out of the folder that it belongs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqmtl.errors import SeqmtlError


def file_name(name: Any, what: str) -> str:
    """The name as text, if it can be that of a file in a given folder, and of no other.

    Raises:
        SeqmtlError: it has slashes or unprintable characters, or begins with a dot.
    """
    text = str(name)
    if not text or text.startswith(".") or "/" in text or not text.isprintable():
        raise SeqmtlError(f"{what} cannot be {text!r}, as files are named by it: no slash, no unprintable sign, no dot in front")
    return text


def refuse_links_out(folder: Path) -> None:
    """Refuse symbolic links inside `folder`, at any depth, that lead out of it; `folder` itself may be one.

    Raises:
        SeqmtlError: names the first.
    """
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not _target(path).is_relative_to(root):
            raise SeqmtlError(f"{path} is a link that leads out of {folder}; put the file itself there")


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a loop
        return Path("/")
