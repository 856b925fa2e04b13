"""Builds DataFrames of runs for the charts: step breakdown, timeline, losses, step time against memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from workbench.analysis.parity import parity_text
from workbench.store.directory import StoredRun

PARTS = ("compute", "optimizer", "exposed communication", "idle", "schedule", "other")


def step_parts(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Returns the step breakdown of each run: ``split``, ``part`` and ``milliseconds``, means over workers and trace steps.

    Args:
        rows: Rows as in ``runs``.
    """
    return pd.DataFrame(
        [
            {"split": row["split"], "part": part, "milliseconds": row[f"{part.replace(' ', '_')}_s"] * 1e3}
            for row in rows
            if row["step_time_s"] is not None
            for part in PARTS
            if row[f"{part.replace(' ', '_')}_s"] is not None  # not recorded in older runs
        ]
    )


def timeline(run: StoredRun) -> pd.DataFrame:
    """Returns the timeline of the last trace step: kind, stage, microbatch, worker, begin and end in milliseconds since its
    start. Waits lie inside other intervals and are drawn over them."""
    run = run.directory
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


def losses(runs: Iterable[StoredRun], rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Returns the losses of each run: ``split``, ``run`` (split and verdict), ``step`` and ``loss``, the mean over the workers
    that compute it.

    Args:
        rows: Rows of the runs as in ``runs``, in the same order.
    """
    frames = []
    for run, row in zip(runs, rows, strict=True):
        steps = run.directory.table("steps").to_pandas()
        mean = steps.dropna(subset="loss").groupby("step", as_index=False)["loss"].mean()
        frames.append(mean.assign(split=row["split"], run=f"{row['split']}: {parity_text(row)}"))
    return pd.concat(frames, ignore_index=True)[["split", "run", "step", "loss"]]


def pareto(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Returns step time against peak memory: ``split``, ``step_time_ms``, ``peak_memory_mib`` of the largest worker, and
    ``on_front``, whether no other run is at least as good in both and better in one. Runs without both figures are left out.

    Args:
        rows: Rows as in ``runs``.
    """
    measured = [row for row in rows if row["step_time_s"] is not None and row["peak_memory_bytes"] is not None]
    points = [(row["step_time_s"], row["peak_memory_bytes"]) for row in measured]
    return pd.DataFrame(
        {
            "split": [row["split"] for row in measured],
            "step_time_ms": [time_s * 1e3 for time_s, _ in points],
            "peak_memory_mib": [size / 2**20 for _, size in points],
            "on_front": [not any(_dominates(other, point) for other in points) for point in points],
        }
    )


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]
