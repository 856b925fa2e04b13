"""Formats sizes in the largest unit in which they are at least one."""

from __future__ import annotations

_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def byte_unit(value: float) -> tuple[str, int]:
    """Returns the unit of a size with its bytes, such as ``("MiB", 1048576)``; that of an axis, by its largest value."""
    return next(((unit, size) for unit, size in _UNITS if value >= size), ("B", 1))


def in_bytes(value: float | None) -> str:
    """Returns the size with its unit: ``3.54 MiB``, ``12 B``."""
    if value is None:
        return "–"
    unit, size = byte_unit(value)
    return f"{value:.0f} B" if size == 1 else f"{value / size:.2f} {unit}"
