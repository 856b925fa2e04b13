"""Frames of a calibration: what was measured, and what the fitted links say of it."""

from __future__ import annotations

from math import inf
from typing import Any

import pandas as pd

from workbench.plan.calibration import own_link
from workbench.plan.links import Route
from workbench.store.run_directory import RunDirectory

Calibration = dict[str, Any]
RINGS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def compute(calibration: Calibration) -> pd.DataFrame:
    """FLOP/s of a matrix product by precision and number of threads."""
    return pd.DataFrame(calibration["matmul"])


def memory(calibration: Calibration) -> pd.DataFrame:
    """Bytes per second of copy and triad by number of threads."""
    return pd.DataFrame(calibration["memory"])


def links(calibration: Calibration) -> pd.DataFrame:
    """Latency, bandwidth and residual fitted to each operation and group size."""
    return pd.DataFrame(calibration["links"])


def communication(calibration: Calibration) -> pd.DataFrame:
    """Each measured operation: group size, payload, seconds, those of the fitted link, and the bandwidth achieved: payload
    over time, times the factor of the ring's formula, so that it compares with a link's whatever the operation."""
    fits = {(fit["operation"], fit["group_size"]): fit for fit in calibration["links"]}
    rows = []
    for row in calibration["communication"]:
        operation, n, size = row["operation"], row["group_size"], row["payload_bytes"]
        fit = fits[operation, n]
        way = Route(("",), fit["latency_s"], fit["bandwidth_bytes_per_s"] or inf)
        achieved = Route(("",), 0.0, 1.0).bytes_s(operation, n, size) / row["time_s"]
        rows.append({**row, "fitted_s": way.duration_s(operation, n, size), "bandwidth_bytes_per_s": achieved})
    return pd.DataFrame(rows)


def achieved(run: RunDirectory, calibration: Calibration | None) -> pd.DataFrame:
    """Bytes per second that a run's operations along each axis had on its trace steps, beside the calibrated link's (none: it
    was not measured). From the last participant's entry, of a send the sender's, to the last one's end; an operation that the
    workers did not wait for at once may have been over sooner, so it is the least that was achieved."""
    frame: pd.DataFrame = run.table("communication").to_pandas()
    frame = frame[frame["operation"].isin(["send", "recv", *RINGS]) & frame["end_s"].notna()]
    is_send, is_recv = frame["operation"] == "send", frame["operation"] == "recv"
    frame["source"] = frame["rank"].where(is_send, frame["peer"].where(is_recv, -1)).astype(int)
    frame["target"] = frame["peer"].where(is_send, frame["rank"].where(is_recv, -1)).astype(int)
    frame["entered_s"] = frame["start_s"].where(~is_recv)
    frame["operation"] = frame["operation"].replace("recv", "send")
    channel = ["step", "group", "source", "target"]
    frame["number"] = frame.groupby(["rank", *channel]).cumcount()
    each = frame.groupby([*channel, "number", "operation", "axis"]).agg(
        entered_s=("entered_s", "max"), end_s=("end_s", "max"), ring_bytes=("ring_bytes", "max"), workers=("rank", "nunique")
    )
    each["taken_s"] = each["end_s"] - each["entered_s"]
    totals = each.reset_index().groupby(["operation", "axis", "workers"], as_index=False)[["ring_bytes", "taken_s"]].sum()
    totals["bandwidth_bytes_per_s"] = totals["ring_bytes"] / totals["taken_s"]
    kinds = zip(totals["operation"].astype(str), totals["workers"].astype(int), strict=True)
    own = [own_link(calibration, operation, n) if calibration else None for operation, n in kinds]
    totals["calibrated_bytes_per_s"] = [link["bandwidth_bytes_per_s"] if link else None for link in own]
    return totals[["operation", "axis", "workers", "bandwidth_bytes_per_s", "calibrated_bytes_per_s"]]
