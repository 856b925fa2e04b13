"""The figures of named runs that one draws side by side, in the units that one reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from workbench.api import Run

_MIB = 2**20


def side_by_side(runs: Mapping[str, Run]) -> pd.DataFrame:
    """A row a finished run, by its name: workers; parameters of the largest worker and its optimizer state and peak memory in
    MiB; communication of a step in MiB (each collective once per group) and of one worker by the formula of the ring; the step
    in milliseconds and samples per second; of the workers' time in a trace step the shares of compute, idle and exposed
    communication; the largest worker's compute over the mean; final loss and parity."""
    rows = []
    for run in runs.values():
        summary, communication = run.summary or {}, run.communication()
        workers = summary["workers"]
        of_steps = [math.nan if worker["step_s"] is None else worker["step_s"] for worker in workers]
        total = sum(of_steps) / len(workers)  # not a number without trace steps
        measured = {key: math.nan if value is None else value for key, value in summary.items()}
        nothing = math.nan if math.isnan(total) else 0.0
        ring = communication.groupby(["rank", "step"])["ring_bytes"].sum()
        rows.append(
            {
                "workers": len(workers),
                "parameters": summary["parameters_per_worker"],
                "optimizer_state_mib": max(worker["optimizer_state_bytes"] for worker in workers) / _MIB,
                "peak_mib": measured["peak_memory_bytes"] / _MIB,
                "communication_mib": measured["communication_bytes_per_step"] / _MIB,
                "ring_mib": ring.max() / _MIB if len(ring) else nothing,
                "step_ms": summary["step_time_s"] * 1e3,
                "samples_per_s": summary["samples_per_s"],
                "compute_share": measured["compute_s"] / total,
                "idle_share": measured["idle_s"] / total,
                "exposed_communication_share": measured["exposed_communication_s"] / total,
                "imbalance": measured["imbalance"],
                "final_loss": summary["final_loss"],
                "parity_ok": summary["parity_ok"],
            }
        )
    return pd.DataFrame(rows, index=pd.Index(list(runs), name="run"))
