"""How sentences put numbers."""

from __future__ import annotations


def counted(count: int | str, noun: str) -> str:
    """``1 thread``, ``2 threads``, ``1 or 2 threads``."""
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"
