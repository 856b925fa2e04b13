"""The plugins that can be chosen."""

from __future__ import annotations

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family, announce

__all__ = [
    "DATASETS",
    "MODELS",
    "SCHEDULES",
    "STRATEGIES",
    "Family",
    "announce",
]
