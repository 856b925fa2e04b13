"""Builds DataFrames of memory: over time, and at the peak of each worker."""

from __future__ import annotations

import pandas as pd

from workbench.errors import SpecError
from workbench.store.directory import StoredRun

CATEGORIES = ("parameters", "gradients", "optimizer_state", "buffers", "activations", "communication", "workspace", "other")
"""In stacking order: what is held throughout comes below what comes and goes."""


def memory_over_time(run: StoredRun, rank: int) -> pd.DataFrame:
    """Returns the memory of a worker during its last memory step: one row per event and category with ``time_ms`` since the start
    of the step, ``event``, ``category`` and ``mebibytes``. Categories that are always empty are left out."""
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


def memory_budget_bytes(run: StoredRun) -> int | None:
    """Returns the memory budget of a worker; None if the spec has none, or needs a plugin that is not installed."""
    try:
        return run.directory.spec().measure.memory_budget_bytes
    except SpecError:
        return None


def memory_at_peak(run: StoredRun) -> pd.DataFrame:
    """Returns the memory of each worker at its peak over all memory steps: ``worker``, ``category``, ``mebibytes``. Empty
    categories are left out."""
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
    """Returns the largest tensors of a worker at the peak of its last memory step: category, module, shape, dtype and bytes."""
    run = run.directory
    frame = run.table("peak_tensors").to_pandas()
    frame = frame[(frame["rank"] == rank) & (frame["step"] == frame["step"].max())]
    frame = frame.assign(category=frame["category"].str.replace("_", " ")).sort_values("bytes", ascending=False)
    return frame[["category", "module", "shape", "dtype", "bytes"]].reset_index(drop=True)
