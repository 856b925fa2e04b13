"""Communication of a run: expected and measured volume, time spent by operation, and achieved bandwidth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workbench.metrics.communication import communication_volume
from workbench.store.directory import StoredRun
from workbench.store.tables import done_s

MEBIBYTE = 2**20
_SUMS = ("payload_bytes", "duration_s", "exposed_communication_s", "idle_s")


def volume_frame(run: StoredRun) -> pd.DataFrame:
    """Returns the expected and measured communication volume of a step of a finished run.

    Returns:
        The rows of ``metrics.communication.communication_volume``, with ``what`` (operation, axis and phase as one label) and
        both volumes in MiB.
    """
    columns = ["operation", "axis", "phase", "expected_bytes", "is_bound", "measured_bytes", "count"]
    frame = pd.DataFrame(communication_volume(run.directory), columns=columns)
    frame = frame.astype({"measured_bytes": "float64", "count": "float64"})
    frame["what"] = frame["operation"] + " · " + frame["axis"] + " · " + frame["phase"]
    frame["expected_mib"] = frame["expected_bytes"] / MEBIBYTE
    frame["measured_mib"] = frame["measured_bytes"] / MEBIBYTE
    return frame


def operations(run: StoredRun) -> pd.DataFrame:
    """Returns ``by_operation`` of one trace step, mean over the trace steps of a run."""
    table = run.directory.table("communication")
    frame = by_operation(table)
    figures = ["count", *_SUMS]
    frame[figures] = frame[figures] / max(num_trace_steps(run) or pc.count_distinct(table["step"]).as_py(), 1)
    return frame


def by_operation(communication: pa.Table) -> pd.DataFrame:
    """Sums rows of the table ``communication`` by operation, axis and phase.

    Returns:
        Sums over workers: ``count``, ``payload_bytes`` (a collective counts once per member), and in seconds ``duration_s`` (from
        entry to completion), ``exposed_communication_s`` and ``idle_s``.
    """
    table = communication.append_column("duration_s", pc.subtract(done_s(communication), communication["start_s"]))
    keys = ["operation", "axis", "phase"]
    grouped = table.group_by(keys).aggregate([("index", "count"), *((column, "sum") for column in _SUMS)])
    names = {"index_count": "count", **{f"{column}_sum": column for column in _SUMS}}
    frame = grouped.to_pandas().rename(columns=names).sort_values(keys, ignore_index=True)
    return frame[[*keys, "count", *_SUMS]]


def num_trace_steps(run: StoredRun) -> int:
    """Returns the number of trace steps of a run, including those without communication."""
    steps = run.directory.table("steps", ("step", "kind")).to_pandas()
    return int(steps.loc[steps["kind"] == "trace", "step"].nunique())


def achieved_bandwidth(communication: pd.DataFrame) -> pd.DataFrame:
    """Returns the bandwidth of operations by operation, axis, group size and size class.

    An operation lasts from its entry by the last participant, so that waiting for a late worker does not count, to its completion
    at the last participant; queueing in the threads of the backend counts. Operations whose completion one participant did not
    observe are excluded; of sends, those that the receiver was not waiting for.

    Args:
        communication: rows of the table ``communication``.

    Returns:
        One row per ``operation``, ``axis``, ``group_size`` and ``size_from_bytes`` (payloads of at least this power of two and
        less than its double): ``num_operations``, ``payload_bytes`` of one operation (mean), ``seconds`` and
        ``ring_bytes_per_s``, the ``ring_bytes`` of a rank over the duration (medians).
    """
    with_payload = communication[communication["payload_bytes"] > 0]
    is_send, is_recv = with_payload["operation"] == "send", with_payload["operation"] == "recv"
    rows = with_payload.assign(
        operation=with_payload["operation"].where(~is_recv, "send"),
        sender=np.select([is_send, is_recv], [with_payload["rank"], with_payload["peer"]], -1),
        receiver=np.select([is_send, is_recv], [with_payload["peer"], with_payload["rank"]], -1),
        completed_s=with_payload["completed_s"].where(~is_send, -np.inf),  # the receiver's counts
        is_seen=with_payload["completed_s"].notna() | is_send,
    )
    of_one = rows.groupby(["step", "operation", "axis", "group", "sender", "receiver", "sequence"], as_index=False).agg(
        entered_s=("start_s", "max"),
        completed_s=("completed_s", "max"),
        payload_bytes=("payload_bytes", "max"),
        ring_bytes=("ring_bytes", "max"),
        group_size=("rank", "size"),
        is_seen=("is_seen", "all"),
    )
    of_one = of_one[of_one["is_seen"] & (of_one["group_size"] > 1)]
    of_one["seconds"] = of_one["completed_s"] - of_one["entered_s"]
    of_one["ring_bytes_per_s"] = of_one["ring_bytes"] / of_one["seconds"]
    of_one["size_from_bytes"] = 2 ** np.floor(np.log2(of_one["payload_bytes"])).astype("int64")
    return of_one.groupby(["operation", "axis", "group_size", "size_from_bytes"], as_index=False).agg(
        num_operations=("seconds", "size"),
        payload_bytes=("payload_bytes", "mean"),
        seconds=("seconds", "median"),
        ring_bytes_per_s=("ring_bytes_per_s", "median"),
    )
