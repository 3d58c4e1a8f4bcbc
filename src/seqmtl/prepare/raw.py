"""Raw text files: read once, hashed on the way, and what is wrong with a line said with its file and number."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from seqmtl.errors import SeqmtlError

Report = Callable[[str, int, float], None]  # what is done, rows so far, share of the whole (0..1)


class RawFile:
    """A raw text file. After `blocks` is used up, `sha256` and `bytes` are those of the whole file.

    Raises:
        SeqmtlError: it is empty or cannot be read.
    """

    def __init__(self, path: Path, block_bytes: int = 1 << 23) -> None:
        self.path = path
        self.block_bytes = block_bytes
        self.bytes = 0
        self.last_line = 0  # number of a last line that does not end with a line feed
        self._digest = hashlib.sha256()
        with self._readable():
            self.total = path.stat().st_size
        if not self.total:
            raise SeqmtlError(f"{path} is empty; it was not copied or downloaded whole: get it again")

    def blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Blocks of whole lines, without their line feeds, each with the number of its first line, counted from 1."""
        number = 1
        with self._readable(), self.path.open("rb") as f:
            while block := f.read(self.block_bytes):
                block += f.readline()
                self._digest.update(block)
                self.bytes += len(block)
                lines = block.split(b"\n")
                if lines[-1]:
                    self.last_line = number + len(lines) - 1
                else:
                    lines.pop()
                yield number, lines
                number += len(lines)

    @property
    def source(self) -> dict[str, Any]:
        return {"sha256": self._digest.hexdigest(), "bytes": self.bytes}

    def _readable(self) -> _Readable:
        return _Readable(self.path)


class _Readable:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise SeqmtlError(f"could not read {self.path}: {error.strerror or error}") from error


class BadLines:
    """What happens to a bad line: `on_bad_line: error` stops, `skip` leaves it out and counts its reason."""

    def __init__(self, on_bad_line: str) -> None:
        if on_bad_line not in ("error", "skip"):
            raise SeqmtlError(f"dataset.prepare.on_bad_line must be error or skip, not {on_bad_line!r}")
        self.skip = on_bad_line == "skip"
        self.counts: Counter[str] = Counter()

    def line(self, path: Path, number: int, reason: str, words: str) -> None:
        """Line `number` (from 1) of `path` is bad: `reason` is the key of the count, `words` are for the user."""
        if not self.skip:
            self._stop(path, number, words)
        self.counts[reason] += 1

    def _stop(self, path: Path, number: int, words: str) -> NoReturn:
        raise SeqmtlError(
            f"{path}, line {number}: {words}. Mend or download the file again, or leave out such rows, counted by reason,"
            " with dataset.prepare.on_bad_line=skip"
        )


def shown(text: bytes, most: int = 40) -> str:
    """A piece of a raw line for a message."""
    return repr(text[:most].decode(errors="backslashreplace")) + ("…" if len(text) > most else "")
