"""The plugins that can be chosen."""

from __future__ import annotations

from pathlib import Path

from workbench.registry import DATASETS, FAMILIES, MODELS, SCHEDULES, STRATEGIES, Family, announce, is_path, is_source

__all__ = [
    "DATASETS",
    "MODELS",
    "SCHEDULES",
    "STRATEGIES",
    "Family",
    "announce",
    "external_plugins",
    "is_path",
    "is_source",
]


def external_plugins() -> list[str]:
    """Returns the loaded plugins from outside the package: ``model mine (mine.py)``, with the file or module."""
    found = []
    for family in FAMILIES:
        for name in family.names():
            module = family.get(name).__module__
            if not module.startswith("workbench."):
                found.append(f"{family.kind} {name} ({Path(module).name})")
    return found
