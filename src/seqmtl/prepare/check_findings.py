"""What a check finds: errors and warnings by kind; rows and shards with the same thing wrong are counted, the first is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

MOST = 20  # lines of one kind that are printed


@dataclass
class Findings:
    """Attributes: `errors` and `warnings`, {kind: lines}; `kind` is where to look (meta.json, files, columns, …)."""

    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    _counted: dict[tuple[bool, str, str, str], tuple[int, str]] = field(default_factory=dict)

    def error(self, kind: str, text: str) -> None:
        self.errors.setdefault(kind, []).append(text)

    def warn(self, kind: str, text: str) -> None:
        self.warnings.setdefault(kind, []).append(text)

    def count(self, kind: str, what: str, n: int, where: str, unit: str = "rows", warning: bool = False) -> None:
        """`n` more rows have `what` wrong, the first of them at `where`."""
        before, first = self._counted.get((warning, kind, what, unit), (0, where))
        self._counted[warning, kind, what, unit] = (before + n, first)

    def settle(self) -> None:
        """Makes lines of what was counted."""
        for (warning, kind, what, unit), (n, where) in self._counted.items():
            (self.warn if warning else self.error)(
                kind, f"{what}: {where}" if n == 1 else f"{what}: {n:,} {unit}, the first is {where}"
            )
        self._counted = {}

    def __len__(self) -> int:
        return sum(map(len, self.errors.values()))

    def print(self, console: Console) -> None:
        """All kinds, the first lines of each; errors last, where they are seen."""
        for head, style, found in (("warning", "yellow", self.warnings), ("error", "red", self.errors)):
            for kind, lines in found.items():
                for line in _first(lines):
                    console.print(f"{head}: {kind}: {line}", style=style, markup=False, highlight=False, soft_wrap=True)


def _first(lines: list[str]) -> Iterator[str]:
    yield from lines[:MOST]
    if len(lines) > MOST:
        yield f"… and {len(lines) - MOST} more of this kind"


def first_line(error: Exception) -> str:
    """What Arrow and numpy say may have many."""
    return str(error).partition("\n")[0] or type(error).__name__
