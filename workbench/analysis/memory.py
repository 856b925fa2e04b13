"""Frames of memory: over time, and at each worker's peak."""

from __future__ import annotations

import pandas as pd

from workbench.store.directory import StoredRun

CATEGORIES = ("parameters", "gradients", "optimizer_state", "buffers", "activations", "communication", "workspace", "other")
"""As they are stacked: what stays below what comes and goes."""


def memory_over_time(run: StoredRun, rank: int) -> pd.DataFrame:
    """Time in milliseconds since the last memory step of a worker began, event, category and MiB; a row an event and
    category. Categories that are empty all the time are left out."""
    run = run.directory
    frame = run.table("memory").to_pandas()
    frame = frame[frame["rank"] == rank]
    frame = frame[frame["step"] == frame["step"].max()]
    used = frame.groupby("category")["bytes"].max()
    frame = frame[frame["category"].map(used) > 0]
    return pd.DataFrame(
        {
            "time_ms": (frame["time_s"] - frame["time_s"].min()) * 1e3,
            "event": frame["event"],
            "category": frame["category"].str.replace("_", " "),
            "mebibytes": frame["bytes"] / 2**20,
        }
    )


def memory_at_peak(run: StoredRun) -> pd.DataFrame:
    """Worker, category and MiB when the worker had the most alive, over its memory steps. Categories as above."""
    run = run.directory
    frame = run.table("memory").to_pandas()
    frame = frame[frame["event"] == "peak"]
    totals = frame.groupby(["rank", "step"])["bytes"].sum()
    highest = dict(totals.groupby("rank").idxmax().to_list())
    frame = frame[frame["step"] == frame["rank"].map(highest)]
    used = frame.groupby("category")["bytes"].max()
    frame = frame[frame["category"].map(used) > 0]
    return pd.DataFrame(
        {
            "worker": frame["rank"].astype(str),
            "category": frame["category"].str.replace("_", " "),
            "mebibytes": frame["bytes"] / 2**20,
        }
    )


def largest_at_peak(run: StoredRun, rank: int) -> pd.DataFrame:
    """Category, module, shape, dtype and bytes of the largest tensors that a worker had alive at its last memory step's peak."""
    run = run.directory
    frame = run.table("peak_tensors").to_pandas()
    frame = frame[(frame["rank"] == rank) & (frame["step"] == frame["step"].max())]
    frame = frame.assign(category=frame["category"].str.replace("_", " ")).sort_values("bytes", ascending=False)
    return frame[["category", "module", "shape", "dtype", "bytes"]].reset_index(drop=True)
