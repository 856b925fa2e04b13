"""Puts the figures of named runs side by side, in readable units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.api import Run

_MIB = 2**20


def side_by_side(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Returns one row per finished run, indexed by its name.

    Columns: number of workers; parameters, optimizer state (MiB) and peak memory (MiB) of the largest worker; communication per
    step in MiB (each collective once per group) and that of one worker by the ring formula; step time in milliseconds and samples
    per second; shares of compute, idle time and exposed communication in the trace steps; imbalance, the compute time of the
    largest worker over the mean; final loss and parity.
    """
    rows = []
    for run in runs.values():
        summary, communication = run.summary, run.communication()
        if summary is None:
            raise UsageError(f"run {run.id} has not finished")
        workers = summary.workers
        total = sum(_number(worker.step_s) for worker in workers) / len(workers)  # not a number without trace steps
        nothing = math.nan if math.isnan(total) else 0.0
        ring = communication.groupby(["rank", "step"])["ring_bytes"].sum()
        rows.append(
            {
                "workers": len(workers),
                "parameters": summary.parameters_per_worker,
                "optimizer_state_mib": max(_number(worker.optimizer_state_bytes) for worker in workers) / _MIB,
                "peak_mib": _number(summary.peak_memory_bytes) / _MIB,
                "communication_mib": _number(summary.communication_bytes_per_step) / _MIB,
                "ring_mib": ring.max() / _MIB if len(ring) else nothing,
                "step_ms": summary.step_time_s * 1e3,
                "samples_per_s": summary.samples_per_s,
                "compute_share": _number(summary.compute_s) / total,
                "idle_share": _number(summary.idle_s) / total,
                "exposed_communication_share": _number(summary.exposed_communication_s) / total,
                "imbalance": _number(summary.imbalance),
                "final_loss": summary.final_loss,
                "parity_ok": summary.parity_ok,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(list(runs), name="run"))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
