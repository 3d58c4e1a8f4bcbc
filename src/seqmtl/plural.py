"""Numbers of things, in messages."""

from __future__ import annotations


def plural(n: int, noun: str) -> str:
    """1 job, 1,200 jobs; 0 jobs. Of nouns with an s."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
