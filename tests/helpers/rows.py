"""Rows of the table ``runs``."""

from __future__ import annotations

from typing import Any

from workbench.store.columns import RUN_COLUMNS


def row(split: str, num_workers: int, **figures: Any) -> dict[str, Any]:
    return {**dict.fromkeys(RUN_COLUMNS), "split": split, "num_workers": num_workers, "state": "finished", **figures}
