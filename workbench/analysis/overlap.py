"""Overlap of communication with compute, which no part of a step shows because it costs no time."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from workbench.analysis import trace
from workbench.store.directory import StoredRun

IN_FLIGHT = "in flight"


def overlap_of(run: StoredRun) -> pd.DataFrame:
    """Returns ``overlap`` of the last trace step of a run."""
    step = trace.steps(run)[-1]
    timeline = trace.timeline_of(run, step)
    return overlap(timeline, trace.communication_of(run, step), trace.span_s(timeline)[0])


def overlap(timeline: pa.Table, communication: pa.Table, start_s: float) -> pd.DataFrame:
    """Returns two lanes per worker: its intervals, and the operations in flight, from entry to completion.

    Operations that no worker waited for are left out.

    Args:
        timeline: rows of a step, as of ``trace.timeline_of``.
        communication: rows of the step, as of ``trace.communication_of``.
        start_s: start of the step, as of ``trace.span_s``.

    Returns:
        Columns ``worker``, ``lane``, ``kind`` (of ``frames.timeline`` or ``in flight``), ``operation``, and ``begin_ms`` and
        ``end_ms`` in milliseconds since ``start_s``.
    """
    operations = communication.to_pandas()
    intervals, _ = trace.lanes(timeline, start_s)
    operations = operations[(operations["operation"] != "barrier") & operations["end_s"].notna()]
    in_flight = pd.DataFrame(
        {
            "worker": operations["rank"].astype(str),
            "kind": IN_FLIGHT,
            "operation": operations["operation"],
            "begin_ms": (operations["start_s"] - start_s) * 1e3,
            "end_ms": (operations["done_s"] - start_s) * 1e3,
        }
    )
    lanes = [
        intervals.assign(lane=intervals["worker"], operation=""),
        in_flight.assign(lane=in_flight["worker"] + " " + IN_FLIGHT),
    ]
    return pd.concat(lanes, ignore_index=True)[["worker", "lane", "kind", "operation", "begin_ms", "end_ms"]]
