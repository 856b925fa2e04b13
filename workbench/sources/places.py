"""Which files are a user's own, and which belong to Python, to an installed package or to the workbench."""

from __future__ import annotations

import functools
import sysconfig
from pathlib import Path

import workbench


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python, to an installed package or to the workbench."""
    return any(path.is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    places = [Path(sysconfig.get_path(name)) for name in names] + [Path(path) for path in workbench.__path__]
    return tuple(dict.fromkeys([*places, *(place.resolve() for place in places)]))
