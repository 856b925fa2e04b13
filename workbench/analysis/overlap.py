"""Communication that overlaps with computing: it costs no time, and so no part of a step shows it."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from workbench.analysis import trace
from workbench.store.directory import StoredRun

IN_FLIGHT = "in flight"


def overlap_of(run: StoredRun) -> pd.DataFrame:
    """Of its last trace step."""
    step = trace.steps(run)[-1]
    timeline = trace.timeline_of(run, step)
    return overlap(timeline, trace.communication_of(run, step), trace.span_s(timeline)[0])


def overlap(timeline: pa.Table, communication: pa.Table, start_s: float) -> pd.DataFrame:
    """Two lanes a worker: what it did, as in ``frames.timeline``, and the operations that were in flight meanwhile (kind ``in
    flight``, with ``operation``), from when each was asked for until it was done; what nobody waited for is left out.

    Args:
        timeline: a step's rows, as of ``trace.timeline_of``.
        communication: likewise.
        start_s: when the step began.

    Returns:
        Columns worker, lane, kind, operation, begin_ms, end_ms.
    """
    operations = communication.to_pandas()
    did, _ = trace.lanes(timeline, start_s)
    operations = operations[(operations["operation"] != "barrier") & operations["end_s"].notna()]
    travels = pd.DataFrame(
        {
            "worker": operations["rank"].astype(str),
            "kind": IN_FLIGHT,
            "operation": operations["operation"],
            "begin_ms": (operations["start_s"] - start_s) * 1e3,
            "end_ms": (operations["done_s"] - start_s) * 1e3,
        }
    )
    lanes = [did.assign(lane=did["worker"], operation=""), travels.assign(lane=travels["worker"] + " " + IN_FLIGHT)]
    return pd.concat(lanes, ignore_index=True)[["worker", "lane", "kind", "operation", "begin_ms", "end_ms"]]
