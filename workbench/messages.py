"""Phrases that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def counted(count: int | str, noun: str) -> str:
    """Returns a number with its noun: ``1 thread``, ``2 threads``, ``1 or 2 threads``."""
    return f"{count} {noun}" if str(count) == "1" else f"{count} {noun}s"


def listed(names: Sequence[str], conjunction: str = "and") -> str:
    """Returns names as in a sentence: ``a, b and c``."""
    return f" {conjunction} ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def unknown_name(kind: str, given: str, allowed: list[str]) -> str:
    """Rejects a name: ``unknown model 'trasformer'; did you mean 'transformer'? Allowed: mlp, transformer``."""
    return f"unknown {kind} {given!r}{nearest_name(given, allowed)} Allowed: {', '.join(allowed) or 'none'}"


def nearest_name(given: str, allowed: list[str]) -> str:
    """Ends a sentence that rejects a name, with the most similar allowed one if there is any."""
    nearest = difflib.get_close_matches(str(given), allowed, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."
