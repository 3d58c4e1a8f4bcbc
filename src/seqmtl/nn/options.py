"""Options of parts that make no sense, refused in words."""

from __future__ import annotations

from collections.abc import Iterable

from seqmtl.errors import SeqmtlError


def one_of(option: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a word that is no choice.

    Raises:
        SeqmtlError: names the choices.
    """
    known = list(choices)
    if value not in known:
        raise SeqmtlError(f"{option}={value} is unknown; choose from {', '.join(known)}")


def at_least(option: str, value: int | None, least: int) -> None:
    """Refuse a number that is too small; None is for a default.

    Raises:
        SeqmtlError: names the smallest.
    """
    if value is not None and value < least:
        raise SeqmtlError(f"{option}={value} must be {least} or more")


def divides(heads: int, width: int) -> None:
    """Refuse heads of attention that cannot share the width evenly.

    Raises:
        SeqmtlError: says what else to choose.
    """
    if heads < 1 or width % heads:
        raise SeqmtlError(f"heads={heads} does not divide the width {width}; choose a divisor, or another model.dim")
