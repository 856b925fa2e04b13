"""Time against memory: which runs no other beats in both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd


def pareto(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Split, step time and largest worker's peak memory of the runs that have both, and whether the run is on the front: no
    other is at least as good in both and better in one. Rows as in ``runs``."""
    known = [row for row in rows if row["step_time_s"] is not None and row["peak_memory_bytes"] is not None]
    points = [(row["step_time_s"], row["peak_memory_bytes"]) for row in known]
    return pd.DataFrame(
        {
            "split": [row["split"] for row in known],
            "step_time_ms": [time_s * 1e3 for time_s, _ in points],
            "peak_memory_mib": [size / 2**20 for _, size in points],
            "on_front": [not any(_beats(other, point) for other in points) for point in points],
        }
    )


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]
