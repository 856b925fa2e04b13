"""The figures of named runs that one draws side by side, in the units that one reads."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from workbench.api import Run

_MIB = 2**20
_PARTS = ("compute", "idle", "exposed_communication")


def side_by_side(runs: Mapping[str, Run]) -> pd.DataFrame:
    """A row a finished run, by its name: workers; parameters of the largest worker and its optimizer state and peak memory in
    MiB; MiB that move in a step (each collective once a group) and that one worker sends if collectives go round a ring; the
    step in milliseconds and samples per second; of the workers' time in a trace step the shares in which they compute, wait
    for others and communicate without computing; the largest worker's computing over the mean; final loss and parity."""
    rows = []
    for run in runs.values():
        summary, moved = run.summary or {}, run.communication()
        workers = summary["workers"]
        total = sum(worker["step_s"] for worker in workers) / len(workers)
        shares = {part: None if summary[f"{part}_s"] is None else summary[f"{part}_s"] / total for part in _PARTS}
        ring = moved.groupby(["rank", "step"])["ring_bytes"].sum()
        rows.append(
            {
                "workers": len(workers),
                "parameters": summary["parameters_per_worker"],
                "optimizer_state_mib": max(worker["optimizer_state_bytes"] for worker in workers) / _MIB,
                "peak_mib": summary["peak_memory_bytes"] / _MIB,
                "moved_mib": _mib(summary["communication_bytes_per_step"]),
                "ring_mib": ring.max() / _MIB if len(ring) else 0.0,
                "step_ms": summary["step_time_s"] * 1e3,
                "samples_per_s": summary["samples_per_s"],
                "compute_share": shares["compute"],
                "idle_share": shares["idle"],
                "communication_share": shares["exposed_communication"],
                "imbalance": summary["imbalance"],
                "final_loss": summary["final_loss"],
                "parity_ok": summary["parity_ok"],
            }
        )
    return pd.DataFrame(rows, index=pd.Index(list(runs), name="what"))


def _mib(value: float | None) -> float:
    """Not a number where it was not measured."""
    return nan if value is None else value / _MIB
