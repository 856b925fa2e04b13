"""Frames behind the charts: what a step is made of, and what each worker does when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from workbench.store.directory import RunDirectory

PARTS = ("compute", "optimizer", "exposed communication", "idle", "schedule", "other")


def step_parts(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Split, part of the step and its milliseconds; rows as in ``runs``, means over workers of the trace steps."""
    return pd.DataFrame(
        [
            {"split": row["split"], "part": part, "milliseconds": row[f"{part.replace(' ', '_')}_s"] * 1e3}
            for row in rows
            if row["step_time_s"] is not None
            for part in PARTS
            if row[f"{part.replace(' ', '_')}_s"] is not None  # older runs do not know the schedule's
        ]
    )


def timeline(run: RunDirectory) -> pd.DataFrame:
    """What each worker did during the run's last trace step: kind, stage, microbatch, worker, begin and end in milliseconds of
    the step. Waits lie inside what waited; they are drawn over it."""
    frame = run.table("timeline").to_pandas()
    frame = frame[frame["step"] == frame["step"].max()]
    start = frame["start_s"].min()
    return pd.DataFrame(
        {
            "kind": frame["kind"],
            "stage": frame["stage"],
            "microbatch": frame["microbatch"],
            "worker": frame["rank"].astype(str),
            "begin_ms": (frame["start_s"] - start) * 1e3,
            "end_ms": (frame["end_s"] - start) * 1e3,
        }
    )
