"""Builds DataFrames of a calibration: its measurements, and the fitted links."""

from __future__ import annotations

from math import inf
from typing import Any

import pandas as pd

from workbench.analysis.communication import achieved_bandwidth
from workbench.hardware.fit import machine_link
from workbench.plan.link_model import Route
from workbench.store.directory import StoredRun

Calibration = dict[str, Any]


def compute(calibration: Calibration) -> pd.DataFrame:
    """Returns the FLOP/s of a matrix product by precision and number of threads."""
    return pd.DataFrame(calibration["matmul"])


def memory(calibration: Calibration) -> pd.DataFrame:
    """Returns the bytes per second of copy and triad by number of threads."""
    return pd.DataFrame(calibration["memory"])


def links(calibration: Calibration) -> pd.DataFrame:
    """Returns the latency, bandwidth and residual fitted to each operation and group size."""
    return pd.DataFrame(calibration["links"])


def communication(calibration: Calibration) -> pd.DataFrame:
    """Returns each measured operation with group size, payload, ``time_s``, ``fitted_s`` of the fitted link, and
    ``bandwidth_bytes_per_s``: payload over time, times the factor of the ring formula, which is comparable to the bandwidth of a
    link for any operation."""
    fits = {(fit["operation"], fit["group_size"]): fit for fit in calibration["links"]}
    rows = []
    for row in calibration["communication"]:
        operation, n, size = row["operation"], row["group_size"], row["payload_bytes"]
        fit = fits[operation, n]
        route = Route(("",), fit["latency_s"], fit["bandwidth_bytes_per_s"] or inf)
        achieved = Route(("",), 0.0, 1.0).transmission_s(operation, n, size) / row["time_s"]
        rows.append({**row, "fitted_s": route.duration_s(operation, n, size), "bandwidth_bytes_per_s": achieved})
    return pd.DataFrame(rows)


def achieved(run: StoredRun, calibration: Calibration | None) -> pd.DataFrame:
    """Returns the bandwidth that a run's operations achieved (``communication.achieved_bandwidth``), and that of the calibrated
    link in ``calibrated_bytes_per_s``; empty if it was not measured."""
    run = run.directory
    frame = achieved_bandwidth(run.table("communication").to_pandas())
    kinds = zip(frame["operation"].astype(str), frame["group_size"].astype(int), strict=True)
    fits = [machine_link(calibration, operation, n) if calibration else None for operation, n in kinds]
    speeds = pd.Series([link["bandwidth_bytes_per_s"] if link else None for link in fits], index=frame.index, dtype=float)
    return frame.assign(calibrated_bytes_per_s=speeds)
