"""Communication: expected beside measured, and how long it took."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workbench.analysis.traffic import num_trace_steps
from workbench.metrics.communication import communication_volume
from workbench.store.directory import StoredRun
from workbench.store.tables import done_s

MEBIBYTE = 2**20
_SUMS = ("payload_bytes", "duration_s", "exposed_communication_s", "idle_s")


def transfers(run: StoredRun) -> pd.DataFrame:
    """Returns ``metrics.communication.communication_volume`` with ``what`` (operation, axis, phase) and both sums in MiB."""
    run = run.directory
    columns = ["operation", "axis", "phase", "expected_bytes", "is_bound", "measured_bytes", "count"]
    frame = pd.DataFrame(communication_volume(run), columns=columns).astype({"measured_bytes": "float64", "count": "float64"})
    frame["what"] = frame["operation"] + " · " + frame["axis"] + " · " + frame["phase"]
    frame["expected_mib"] = frame["expected_bytes"] / MEBIBYTE
    frame["measured_mib"] = frame["measured_bytes"] / MEBIBYTE
    return frame


def operations(run: StoredRun) -> pd.DataFrame:
    """``by_operation`` of a trace step, mean over them."""
    run = run.directory
    table = run.table("communication")
    frame = by_operation(table)
    figures = ["count", *_SUMS]
    frame[figures] = frame[figures] / max(num_trace_steps(run) or pc.count_distinct(table["step"]).as_py(), 1)
    return frame


def by_operation(communication: pa.Table) -> pd.DataFrame:
    """Operation, axis and phase; summed over workers: ``count``, ``payload_bytes`` (of a collective as often as it has
    members), and the seconds from begin until it was done, blocked while communicating (``exposed_communication_s``) and
    waiting for a late worker (``idle_s``)."""
    table = communication.append_column("duration_s", pc.subtract(done_s(communication), communication["start_s"]))
    keys = ["operation", "axis", "phase"]
    grouped = table.group_by(keys).aggregate([("index", "count"), *((column, "sum") for column in _SUMS)])
    names = {"index_count": "count", **{f"{column}_sum": column for column in _SUMS}}
    frame = grouped.to_pandas().rename(columns=names).sort_values(keys, ignore_index=True)
    return frame[[*keys, "count", *_SUMS]]
